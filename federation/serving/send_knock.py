# SPDX-License-Identifier: Apache-2.0
"""`PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}` (server-server API, "Knocking upon a room")."""

from __future__ import annotations

import orjson

from federation.serving.acceptance import Receiving, accept
from federation.serving.offered import Offer, Reader, offered_event, verified
from homeserver.errors import InvalidParam
from homeserver.rooms.membership.knock import check_may_knock
from homeserver.rooms.server_access import ServerGate
from homeserver.rooms.stripped_state import TYPES
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route


class SendKnock:
    """See the module."""

    def __init__(self, *, gate: ServerGate, reader: Reader, intake: Receiving) -> None:
        self._gate = gate
        self._reader = reader
        self._intake = intake

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "PUT",
                "/send_knock/{room_id}/{event_id}",
                self.respond,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_joins",
            )
        ]

    async def respond(self, request: MatrixRequest) -> Reply:
        """Answer with what the knocking user is shown of the room."""
        offer = Offer(
            origin=request.origin,
            room_id=request.param("room_id"),
            event_id=request.param("event_id"),
            membership="knock",
        )
        return JsonBytes(await self.send(offer, request.json()))

    async def send(self, offer: Offer, pdu: object) -> bytes:
        """Take the knock into the room; `knock_room_state` as whole events, by which the other side can tell that they
        are the room's (specification 1.16). Raises NotFound, Forbidden, InvalidParam, BadJson.
        """
        room = await self._gate.resident_room(offer.origin, offer.room_id)
        version = room.head.version
        event = offered_event(pdu, version, offer)
        if event.state_key != event.sender:
            raise InvalidParam("The knock is not the sender's own")
        check_may_knock(room.head, event.sender)
        await accept(self._intake, await verified(self._reader, version, event.pdu, offer.room_id))
        shown = [entry for entry in map(room.head.state_event, TYPES) if entry is not None]
        return orjson.dumps({"knock_room_state": [orjson.Fragment(entry.stored.pdu) for entry in shown]})
