# SPDX-License-Identifier: Apache-2.0
"""`PUT /_matrix/federation/v1/send_leave` and `v2/send_leave` (server-server API, "Leaving Rooms")."""

from __future__ import annotations

from federation.serving.acceptance import Receiving, accept
from federation.serving.offered import Offer, Reader, offered_event, verified
from homeserver.errors import InvalidParam
from homeserver.rooms.server_access import ServerGate
from homeserver.web.replies import Reply, json_response
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, FEDERATION_V2, Auth, Route


class SendLeave:
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
                "/send_leave/{room_id}/{event_id}",
                handler,
                under=under,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_joins",
            )
            for under, handler in ((FEDERATION_V1, self.respond_v1), (FEDERATION_V2, self.respond_v2))
        ]

    async def respond_v1(self, request: MatrixRequest) -> Reply:
        """Answer `[200, {}]`, as the first version does."""
        await self._respond(request)
        return json_response(200, [200, {}])

    async def respond_v2(self, request: MatrixRequest) -> Reply:
        """Answer `{}`."""
        await self._respond(request)
        return {}

    async def _respond(self, request: MatrixRequest) -> None:
        offer = Offer(
            origin=request.origin,
            room_id=request.param("room_id"),
            event_id=request.param("event_id"),
            membership="leave",
        )
        await self.send(offer, request.json())

    async def send(self, offer: Offer, pdu: object) -> None:
        """Take the leave into the room. Raises NotFound, Forbidden, InvalidParam, BadJson."""
        room = await self._gate.resident_room(offer.origin, offer.room_id)
        version = room.head.version
        event = offered_event(pdu, version, offer)
        if event.state_key != event.sender:
            raise InvalidParam("The leave is not the sender's own")
        await accept(self._intake, await verified(self._reader, version, event.pdu, offer.room_id))
