# SPDX-License-Identifier: Apache-2.0
"""`GET /rooms/{roomId}/timestamp_to_event`: the event nearest to a moment (client-server API; MSC3030)."""

from __future__ import annotations

from homeserver.errors import NotFound
from homeserver.events import RoomEvent
from homeserver.rooms.access import RoomGate
from storage.timelines import TimelineStore

BATCH = 100
BATCHES = 50
"""Events that the user may not see are passed over, but not for ever."""


class EventsByTime:
    """One per process."""

    def __init__(self, *, gate: RoomGate, store: TimelineStore) -> None:
        self._gate = gate
        self._store = store

    async def nearest(self, user_id: str, room_id: str, timestamp: int, *, backwards: bool) -> RoomEvent:
        """The visible event nearest to a time in milliseconds, at it or on the side asked for.

        Raises NotFound if there is none, Forbidden for the room.
        """
        access = await self._gate.access_room(user_id, room_id)
        position = 2**62 if backwards else -(2**62)
        limit, at = 1, timestamp
        for _ in range(BATCHES):
            rows = await self._store.nearest(access.room.key, at, position, backwards=backwards, limit=limit)
            for stored in rows:
                entry = self._gate.in_memory(access.room, stored)
                if access.sight.may_see(entry):
                    return entry
            if len(rows) < limit:
                break
            at, position = rows[-1].origin_server_ts, rows[-1].position + (-1 if backwards else 1)
            limit = BATCH
        raise NotFound(
            f"Unable to find event from {timestamp} in {'backward' if backwards else 'forward'} direction"
        )
