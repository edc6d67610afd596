# SPDX-License-Identifier: Apache-2.0
"""`GET /_matrix/federation/v1/state/{roomId}` and `/state_ids/{roomId}` (server-server API, "Retrieving events").

The state is given whole to any server in the room: it is what decides whether events are allowed, of history, too.
While this server does not know a room's members it knows no state of it that others could build on, and says so.
"""

from __future__ import annotations

import orjson
from pyroaring import BitMap

from federation.serving.portions import LargeAnswers, StateReader, spliced
from homeserver.errors import NotFound
from homeserver.rooms.engine import Room
from homeserver.rooms.server_access import ServerGate
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route
from storage.events import OUTLIER, REJECTED, EventStore


class StateEndpoints:
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
                template,
                handler,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_history",
                abandon=True,
            )
            for template, handler in (("/state/{room_id}", self.state), ("/state_ids/{room_id}", self.ids))
        ]

    async def state(self, request: MatrixRequest) -> Reply:
        """The state before an event, and its auth chain. Raises NotFound, Forbidden."""
        room, snapshot = await self._place(request)

        async def make() -> bytes:
            state, chain = await self._reader.events(room.key, await self._state(room, snapshot))
            auth_chain, _ = await self._reader.events(room.key, chain)
            return spliced(("auth_chain", auth_chain), ("pdus", state))

        return JsonBytes(await self._large.make(request.origin, make))

    async def ids(self, request: MatrixRequest) -> Reply:
        """The same as event ids."""
        room, snapshot = await self._place(request)

        async def make() -> bytes:
            state, chain = await self._reader.ids(room.key, await self._state(room, snapshot))
            auth_chain, _ = await self._reader.ids(room.key, chain)
            return orjson.dumps({"auth_chain_ids": auth_chain, "pdu_ids": state})

        return JsonBytes(await self._large.make(request.origin, make))

    async def _state(self, room: Room, snapshot: int) -> BitMap:
        return await self._reader.state_at(room.key, snapshot)

    async def _place(self, request: MatrixRequest) -> tuple[Room, int]:
        """The room and the snapshot before the event."""
        event_id = request.query.required("event_id")
        access = await self._gate.access_room(request.origin, request.param("room_id"))
        room = access.room
        stored = (await self._events.by_ids((event_id,))).get(event_id)
        if stored is None or stored.room != room.key or stored.flags & REJECTED:
            raise NotFound("Event not found")
        if stored.flags & OUTLIER or stored.snapshot is None or room.head.partial_servers is not None:
            raise NotFound("The state at that event is not known here")
        return room, stored.snapshot
