# SPDX-License-Identifier: Apache-2.0
"""Finding one event on behalf of a user, asking other servers for it if it is not here.

Other servers are asked for members only: who has left sees nothing that was not known by then.
"""

from __future__ import annotations

from homeserver.errors import NotFound
from homeserver.events import RoomEvent
from homeserver.rooms.access import RoomAccess, RoomGate
from homeserver.rooms.reading.missing_history import MissingHistory
from homeserver.rooms.reading.past_stays import PastStays
from storage.events import EventStore

PATIENCE = 10.0
"""Seconds."""


class EventSearch:
    """One per process."""

    def __init__(
        self, *, gate: RoomGate, events: EventStore, stays: PastStays, missing: MissingHistory
    ) -> None:
        self._gate = gate
        self._events = events
        self._stays = stays
        self._missing = missing

    async def access_event(self, user_id: str, room_id: str, event_id: str) -> tuple[RoomAccess, RoomEvent]:
        """An event of the room that the user may see. Raises NotFound in all other cases, Forbidden for the room."""
        access = await self._gate.access_room(user_id, room_id)
        entry = await self._known(access, event_id)
        if entry is None and await self._fetched(access, event_id):
            entry = await self._known(access, event_id)
        if entry is None or not access.sight.may_see(entry):
            raise NotFound("Event not found")
        return access, entry

    async def _fetched(self, access: RoomAccess, event_id: str) -> bool:
        room, missing = access.room, self._missing
        if not access.is_joined or not missing.obtainable(room):
            return False
        return await missing.find(room, event_id, patience=PATIENCE)

    async def _known(self, access: RoomAccess, event_id: str) -> RoomEvent | None:
        stored = (await self._events.by_ids((event_id,))).get(event_id)
        if stored is None or stored.room != access.room.key or stored.flags:
            return None
        await self._stays.settle(access, (stored,))
        return self._gate.in_memory(access.room, stored)
