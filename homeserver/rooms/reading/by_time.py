# SPDX-License-Identifier: Apache-2.0
"""`GET /rooms/{roomId}/timestamp_to_event`: the event nearest to a moment (client-server API; MSC3030)."""

from __future__ import annotations

from homeserver.errors import NotFound
from homeserver.events import RoomEvent
from homeserver.rooms.access import RoomAccess, RoomGate
from homeserver.rooms.reading.missing_history import MissingHistory
from homeserver.rooms.reading.past_stays import PastStays
from storage.gaps import GapStore
from storage.timelines import TimelineStore

BATCH = 100
BATCHES = 50
"""Events that the user may not see are passed over, but not for ever."""
PATIENCE = 10.0
"""Seconds to wait for other servers."""
_DEEPEST = 2**62


class EventsByTime:
    """One per process."""

    def __init__(
        self,
        *,
        gate: RoomGate,
        store: TimelineStore,
        gaps: GapStore,
        stays: PastStays,
        missing: MissingHistory,
    ) -> None:
        self._gate = gate
        self._store = store
        self._gaps = gaps
        self._stays = stays
        self._missing = missing

    async def nearest(self, user_id: str, room_id: str, timestamp: int, *, backwards: bool) -> RoomEvent:
        """The visible event nearest to a time in milliseconds, at it or on the side asked for.

        Other servers are asked where something nearer may be missing here. Raises NotFound if there is none, Forbidden
        for the room.
        """
        access = await self._gate.access_room(user_id, room_id)
        found = await self._known(access, timestamp, backwards=backwards)
        if await self._beside_gap(access, found, timestamp, backwards=backwards):
            room = access.room
            if await self._missing.find_by_time(room, timestamp, backwards=backwards, patience=PATIENCE):
                found = await self._known(access, timestamp, backwards=backwards)
        if found is None:
            raise NotFound(
                f"Unable to find event from {timestamp} in {'backward' if backwards else 'forward'} direction"
            )
        return found

    async def _known(self, access: RoomAccess, timestamp: int, *, backwards: bool) -> RoomEvent | None:
        position = 2**62 if backwards else -(2**62)
        limit, at = 1, timestamp
        for _ in range(BATCHES):
            rows = await self._store.nearest(access.room.key, at, position, backwards=backwards, limit=limit)
            await self._stays.settle(access, rows)
            for stored in rows:
                entry = self._gate.in_memory(access.room, stored)
                if access.sight.may_see(entry):
                    return entry
            if len(rows) < limit:
                break
            at, position = rows[-1].origin_server_ts, rows[-1].position + (-1 if backwards else 1)
            limit = BATCH
        return None

    async def _beside_gap(
        self, access: RoomAccess, found: RoomEvent | None, timestamp: int, *, backwards: bool
    ) -> bool:
        """Whether something may be missing between the event that was found and the next one on the other side."""
        room = access.room
        if not access.is_joined or not self._missing.obtainable(room):
            return False
        if found is not None and found.stored.origin_server_ts == timestamp:
            return False
        position = -(2**62) if backwards else 2**62
        rows = await self._store.nearest(room.key, timestamp, position, backwards=not backwards, limit=1)
        here = None if found is None else found.stored.depth
        there = rows[0].depth if rows else None
        earlier, later = (here, there) if backwards else (there, here)
        return await self._gaps.any_between(
            room.key, 0 if earlier is None else earlier, _DEEPEST if later is None else later
        )
