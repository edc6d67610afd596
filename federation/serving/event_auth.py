# SPDX-License-Identifier: Apache-2.0
"""`GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}` (server-server API, "Retrieving event authorization
information")."""

from __future__ import annotations

import orjson
from pyroaring import BitMap

from federation.serving.portions import LargeAnswers, StateReader, spliced
from homeserver.errors import NotFound
from homeserver.protocol.events import Event
from homeserver.rooms.engine import Room
from homeserver.rooms.server_access import ServerGate
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route
from storage.events import REJECTED, EventStore, StoredEvent


class EventAuthEndpoint:
    """See the module."""

    def __init__(
        self, *, gate: ServerGate, events: EventStore, reader: StateReader, large: LargeAnswers
    ) -> None:
        self._gate = gate
        self._events = events
        self._reader = reader
        self._large = large

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "GET",
                "/event_auth/{room_id}/{event_id}",
                self.get,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_history",
                abandon=True,
            )
        ]

    async def get(self, request: MatrixRequest) -> Reply:
        """The whole auth chain of an event, for servers in the room. Raises Forbidden, NotFound."""
        event_id = request.param("event_id")
        access = await self._gate.access_room(request.origin, request.param("room_id"))
        stored = (await self._events.by_ids((event_id,))).get(event_id)
        if stored is None or stored.room != access.room.key or stored.flags & REJECTED:
            raise NotFound("Event not found")
        chain = await self._chain(access.room, stored)

        async def make() -> bytes:
            events, _ = await self._reader.events(stored.room, chain)
            return spliced(("auth_chain", events))

        return JsonBytes(await self._large.make(request.origin, make))

    async def _chain(self, room: Room, stored: StoredEvent) -> BitMap:
        """Its ordinals: kept with state events, put together for others."""
        if stored.auth_chain is not None:
            return BitMap.deserialize(stored.auth_chain)
        event = Event.from_pdu(orjson.loads(stored.pdu), room.head.version, stored.event_id)
        chain = BitMap()
        for cited in (await self._events.by_ids(event.auth_event_ids)).values():
            if cited.room == stored.room:
                chain.add(cited.ordinal)
                if cited.auth_chain is not None:
                    chain |= BitMap.deserialize(cited.auth_chain)
        return chain
