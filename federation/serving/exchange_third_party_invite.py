# SPDX-License-Identifier: Apache-2.0
"""`PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`: somebody invited by an address turns out to be a
user of the server that asks (server-server API, "Third-party invites").

The invite is made anew from the room's own `m.room.third_party_invite` event; of the request only the identity server's
word is taken into it, which the room's rules check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from federation.serving.offered import MEMBER, check_own_user
from homeserver.errors import BadJson, Forbidden, InvalidParam
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import is_valid_user_id
from homeserver.rooms.engine import Draft, Plan, RoomHead
from homeserver.rooms.engine.head import host_of
from homeserver.rooms.refusals import already_joined
from homeserver.rooms.server_access import ServerGate
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route

ISSUED = "m.room.third_party_invite"


class Inviting(Protocol):
    """Invites users of other servers; `homeserver.rooms.remote.RemoteRooms` is one."""

    async def invite(self, room_id: str, user_id: str, plan: Plan, *, users: Sequence[str]) -> str: ...


class ExchangeThirdPartyInvite:
    """See the module."""

    def __init__(self, *, server_name: str, gate: ServerGate, inviting: Inviting) -> None:
        self._server_name = server_name
        self._gate = gate
        self._inviting = inviting

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "PUT",
                "/exchange_third_party_invite/{room_id}",
                self.respond,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_invites",
            )
        ]

    async def respond(self, request: MatrixRequest) -> Reply:
        """Answer `{}` when the invite is made."""
        await self.exchange(request.origin, request.param("room_id"), request.json_object())
        return {}

    async def exchange(self, origin: str, room_id: str, event: Mapping[str, Any]) -> None:
        """Invite the user. `event` is the partial member event.

        Raises NotFound, Forbidden, BadJson, InvalidParam, and what inviting a user of another server raises.
        """
        if event.get("room_id") != room_id:
            raise InvalidParam("The event is of another room than the one in the path")
        if event.get("type") != MEMBER:
            raise InvalidParam("The event is not a membership")
        sender, user_id = event.get("sender"), event.get("state_key")
        if not isinstance(sender, str) or not isinstance(user_id, str):
            raise BadJson("`sender` and `state_key` must be strings")
        check_own_user(origin, user_id)
        if not is_valid_user_id(sender) or host_of(sender) != self._server_name:
            raise Forbidden("The invite was not sent by a user of this server")
        plan = third_party_plan(sender, user_id, signed_part(event.get("content"), user_id))
        await self._gate.resident_room(origin, room_id)
        await self._inviting.invite(room_id, user_id, plan, users=(sender, user_id))


def signed_part(content: object, user_id: str) -> dict[str, Any]:
    """The identity server's word in a partial invite's content. Raises InvalidParam where it is not about the user."""
    if not isinstance(content, dict) or content.get("membership") != "invite":
        raise InvalidParam("The event's membership is not invite")
    invite = content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, dict) else None
    if not isinstance(signed, dict) or not isinstance(signed.get("token"), str):
        raise InvalidParam("The event has no third_party_invite with a signed token")
    if signed.get("mxid") != user_id:
        raise InvalidParam("The third_party_invite is signed for another user")
    return signed


def third_party_plan(sender: str, user_id: str, signed: Mapping[str, Any]) -> Plan:
    """The plan of the invite that a token of the room's stands for. It raises Forbidden."""

    def plan(head: RoomHead) -> Sequence[Draft]:
        issued = head.state_event(ISSUED, signed["token"])
        if issued is None or issued.stored.sender != sender:
            raise Forbidden("There is no such third-party invite by that user in the room")
        if head.is_joined(user_id):
            # The rules would let it pass, and make a member an invited user.
            raise already_joined(user_id)
        name = issued.event.content.get("display_name")
        invite = {"display_name": name if isinstance(name, str) else "", "signed": dict(signed)}
        return (Draft(MEMBER, sender, {"membership": "invite", "third_party_invite": invite}, user_id),)

    return plan
