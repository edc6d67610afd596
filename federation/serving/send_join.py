# SPDX-License-Identifier: Apache-2.0
"""`PUT /_matrix/federation/v1/send_join` and `v2/send_join` (server-server API, "Joining Rooms", "Restricted rooms").

This server's signature is put on a join only where one of its users vouches for it, and only after it was checked that
the event is the join of the asking server's user to this room and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.serving.acceptance import Receiving, accept
from federation.serving.join_answers import JoinAnswers
from federation.serving.offered import Offer, Reader, countersigned, offered_event, verified
from federation.serving.restricted_joins import AUTHORISER, RestrictedJoins
from homeserver.errors import Forbidden, InvalidParam
from homeserver.protocol.events import Event
from homeserver.rooms.engine import RoomHead
from homeserver.rooms.engine.head import host_of
from homeserver.rooms.engine.working import Signer
from homeserver.rooms.membership.join import must_meet_conditions
from homeserver.rooms.server_access import ServerGate
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, FEDERATION_V2, Auth, Route


class SendJoin:
    """See the module."""

    def __init__(
        self,
        *,
        signer: Signer,
        gate: ServerGate,
        reader: Reader,
        intake: Receiving,
        restricted: RestrictedJoins,
        answers: JoinAnswers,
    ) -> None:
        self._signer = signer
        self._gate = gate
        self._reader = reader
        self._intake = intake
        self._restricted = restricted
        self._answers = answers

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "PUT",
                "/send_join/{room_id}/{event_id}",
                handler,
                under=under,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_joins",
            )
            for under, handler in ((FEDERATION_V1, self.respond_v1), (FEDERATION_V2, self.respond_v2))
        ]

    async def respond_v1(self, request: MatrixRequest) -> Reply:
        """Answer `[200, {…}]`, as the first version does."""
        return JsonBytes(b"[200," + await self.send(_offer(request), request.json()) + b"]")

    async def respond_v2(self, request: MatrixRequest) -> Reply:
        """Answer with the room."""
        omit_members = request.query.boolean("omit_members")
        return JsonBytes(await self.send(_offer(request), request.json(), omit_members=omit_members))

    async def send(self, offer: Offer, pdu: object, *, omit_members: bool = False) -> bytes:
        """Take the join into the room; the room as it was before, as JSON.

        Raises NotFound, Forbidden, InvalidParam, BadJson, UnableToAuthoriseJoin, UnableToGrantJoin.
        """
        room = await self._gate.resident_room(offer.origin, offer.room_id)
        head = room.head
        event = offered_event(pdu, head.version, offer)
        if event.state_key != event.sender:
            raise InvalidParam("The join is not the sender's own")
        whole: Mapping[str, Any] = event.pdu
        if head.version.restricted_joins and AUTHORISER in event.content:
            whole = await self._vouched_for(head, event)
        elif must_meet_conditions(head, event.sender):
            raise Forbidden("The join is authorised by nobody, and there is no invite")
        incoming = await verified(self._reader, head.version, whole, offer.room_id)
        await accept(self._intake, incoming)
        return await self._answers.answer(
            head, incoming, servers=_servers_before(head, event.sender), omit_members=omit_members
        )

    async def _vouched_for(self, head: RoomHead, event: Event) -> Mapping[str, Any]:
        """The join of a restricted room with our signature, if the user of ours that it names may vouch for it."""
        authoriser = event.content[AUTHORISER]
        if not isinstance(authoriser, str) or host_of(authoriser) != self._signer.server_name:
            raise InvalidParam("The join is to be authorised by a user of another server")
        elsewhere = await self._restricted.elsewhere(head, event.sender)
        self._restricted.check_authoriser(head, event.sender, authoriser, elsewhere)
        return countersigned(event, self._signer)


def _offer(request: MatrixRequest) -> Offer:
    return Offer(
        origin=request.origin,
        room_id=request.param("room_id"),
        event_id=request.param("event_id"),
        membership="join",
    )


def _servers_before(head: RoomHead, user_id: str) -> set[str]:
    """The servers in the room before the user joined, given the room before or after that."""
    servers = set(head.hosts)
    if head.is_joined(user_id) and head.hosts.get(host_of(user_id)) == 1:
        servers.discard(host_of(user_id))
    return servers
