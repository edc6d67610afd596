# SPDX-License-Identifier: Apache-2.0
"""`PUT /_matrix/federation/v1/3pid/onbind`: an identity server tells that an address is now a user's of ours, and which
invites it has kept for it (server-server API, "Third-party invites").

Anybody can say so. What is told gets into a room only if that room's rules find it signed by the identity server that
the invite was left with; here or, in rooms this server is not in, at the server of whoever invites.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults

from federation.client.errors import RemoteFailure
from federation.serving.acceptance import Receiving, accept
from federation.serving.exchange_third_party_invite import signed_part, third_party_plan
from federation.serving.invitees import Invitees
from federation.serving.offered import MEMBER
from homeserver.errors import BadJson, InvalidParam, MatrixError
from homeserver.needs import Protocol
from homeserver.protocol.errors import ProtocolError
from homeserver.protocol.events import Event
from homeserver.protocol.identifiers import is_valid_room_id, is_valid_user_id
from homeserver.rooms.engine import Plan, RoomCache
from homeserver.rooms.engine.head import host_of
from homeserver.rooms.intake.incoming import Incoming
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route

log = logging.getLogger(__name__)

MOST_INVITES: Final = 20
"""Each may have another server asked."""


class OnBindBody(Struct):
    """What is read of the body."""

    medium: str
    address: str
    mxid: str
    invites: list[dict[str, Any]]


class Prepared(Protocol):
    """An event that could be written."""

    @property
    def event(self) -> Event: ...
    @property
    def json(self) -> str: ...


class Intake(Receiving, Protocol):
    """`homeserver.rooms.intake.RoomIntake`, as far as it is used here."""

    async def prepare(
        self, room_id: str, plan: Plan, users: Sequence[str] = (), *, recommended: bool = False
    ) -> Prepared: ...


class Exchanging(Protocol):
    """Asks the server of an inviter; `federation.client.calls.FederationCalls` is one."""

    async def exchange_third_party_invite(
        self, destination: str, room_id: str, event: Mapping[str, Any]
    ) -> None: ...


class ThreepidOnBind:
    """See the module."""

    def __init__(
        self,
        *,
        server_name: str,
        cache: RoomCache,
        intake: Intake,
        exchanging: Exchanging,
        invitees: Invitees,
    ) -> None:
        self._server_name = server_name
        self._cache = cache
        self._intake = intake
        self._exchanging = exchanging
        self._invitees = invitees

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "PUT",
                "/3pid/onbind",
                self.respond,
                under=FEDERATION_V1,
                auth=Auth.NONE,
                resource="federation",
                limit="invites",
            )
        ]

    async def respond(self, request: MatrixRequest) -> Reply:
        """Answer `{}` once each invite was tried."""
        body = request.body(OnBindBody)
        await self.bound(body.mxid, body.invites)
        return {}

    async def bound(self, user_id: str, invites: Sequence[Mapping[str, Any]]) -> None:
        """Redeem the invites of a user of ours; one that fails is logged and keeps no other.

        Raises Forbidden or InvalidParam where the user is none of ours, InvalidParam for too many invites.
        """
        if len(invites) > MOST_INVITES:
            raise InvalidParam(f"More than {MOST_INVITES} invites at once")
        await self._invitees.check_user(user_id)
        await gatherResults([Deferred.fromCoroutine(self._try(user_id, invite)) for invite in invites])

    async def _try(self, user_id: str, invite: Mapping[str, Any]) -> None:
        try:
            await self._redeem(user_id, invite)
        except (MatrixError, ProtocolError, RemoteFailure) as error:
            log.info("third-party invite of %s was not redeemed: %s", user_id, error)

    async def _redeem(self, user_id: str, invite: Mapping[str, Any]) -> None:
        room_id, sender = invite.get("room_id"), invite.get("sender")
        if not isinstance(room_id, str) or not is_valid_room_id(room_id):
            raise BadJson("`room_id` must be a room id")
        if not isinstance(sender, str) or not is_valid_user_id(sender):
            raise BadJson("`sender` must be a user id")
        part = {"display_name": "", "signed": invite.get("signed")}
        signed = signed_part({"membership": "invite", "third_party_invite": part}, user_id)
        await self._invitees.check(sender, user_id)
        room = await self._cache.get(room_id)
        if room is not None and room.head.is_resident(self._server_name):
            plan = third_party_plan(sender, user_id, signed)
            prepared = await self._intake.prepare(room_id, plan, (sender, user_id), recommended=True)
            await accept(self._intake, Incoming(prepared.event, prepared.json))
        elif host_of(sender) != self._server_name:
            event = {
                "type": MEMBER,
                "room_id": room_id,
                "sender": sender,
                "state_key": user_id,
                "content": {"membership": "invite", "third_party_invite": part},
            }
            await self._exchanging.exchange_third_party_invite(host_of(sender), room_id, event)
