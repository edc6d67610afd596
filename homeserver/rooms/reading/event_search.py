# SPDX-License-Identifier: Apache-2.0
"""Finding one event on behalf of a user, asking other servers for it if it is not here.

Other servers are asked for members only: who has left sees nothing that was not known by then.
"""

from __future__ import annotations

from homeserver.errors import NotFound
from homeserver.events import RoomEvent
from homeserver.rooms.access import RoomAccess, RoomGate
from homeserver.rooms.engine import RoomCache
from homeserver.rooms.reading.missing_history import MissingHistory

PATIENCE = 10.0
"""Seconds."""


class EventSearch:
    """One per process."""

    def __init__(self, *, gate: RoomGate, cache: RoomCache, missing: MissingHistory) -> None:
        self._gate = gate
        self._cache = cache
        self._missing = missing

    async def access_event(self, user_id: str, room_id: str, event_id: str) -> tuple[RoomAccess, RoomEvent]:
        """As `RoomGate.access_event`."""
        try:
            return await self._gate.access_event(user_id, room_id, event_id)
        except NotFound:
            room = await self._cache.get(room_id)
            if room is None or not room.head.is_joined(user_id) or not self._missing.obtainable(room):
                raise
            if not await self._missing.find(room, event_id, patience=PATIENCE):
                raise
        return await self._gate.access_event(user_id, room_id, event_id)
