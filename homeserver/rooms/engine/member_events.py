# SPDX-License-Identifier: Apache-2.0
"""Events kept in memory by room and ordinal: member events above all, which rooms themselves do not hold.

A cache with a budget in bytes, least recently used out first. An event in it is a shared object, so a redaction written
here is seen here; what another process writes drops what is held of the room.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from homeserver.events import RoomEvent
from homeserver.protocol.room_versions import RoomVersion
from homeserver.stream.changes import Change
from storage.events import EventStore


class MemberEvents:
    """One per process."""

    def __init__(self, store: EventStore, budget: int) -> None:
        self._store = store
        self._budget = budget
        self._weight = 0
        self._entries: OrderedDict[tuple[int, int], RoomEvent] = OrderedDict()
        self._ordinals: dict[int, set[int]] = {}
        """By room, what is held of it."""
        self._generation = 0

    @property
    def weight(self) -> int:
        """About how many bytes it holds."""
        return self._weight

    @property
    def generation(self) -> int:
        """Grows whenever something may have been redacted: who reads events meanwhile must not `put` them."""
        return self._generation

    def peek(self, room: int, ordinal: int) -> RoomEvent | None:
        """The event, if it is in memory."""
        entry = self._entries.get((room, ordinal))
        if entry is not None:
            self._entries.move_to_end((room, ordinal))
        return entry

    def put(self, entry: RoomEvent) -> None:
        key = (entry.stored.room, entry.stored.ordinal)
        before = self._entries.pop(key, None)
        if before is not None:
            self._weight -= before.weight
        self._entries[key] = entry
        self._ordinals.setdefault(key[0], set()).add(key[1])
        self._weight += entry.weight
        while self._weight > self._budget and len(self._entries) > 1:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: tuple[int, int]) -> None:
        self._weight -= self._entries.pop(key).weight
        ordinals = self._ordinals[key[0]]
        ordinals.discard(key[1])
        if not ordinals:
            del self._ordinals[key[0]]

    def changed(self, change: Change) -> Iterable[str]:
        """Another process wrote rooms: it may have redacted what is held of them here."""
        if not (change.foreign or change.unknown):
            return ()
        self._generation += 1
        rooms = tuple(self._ordinals) if change.unknown else change.rooms
        for room in rooms:
            for ordinal in tuple(self._ordinals.get(room, ())):
                self._drop((room, ordinal))
        return ()

    async def load(
        self, room: int, room_id: str, version: RoomVersion, ordinals: Iterable[int]
    ) -> list[RoomEvent]:
        """Those events, from memory or in one query; unknown ordinals are left out."""
        found: list[RoomEvent] = []
        missing: list[tuple[int, int]] = []
        for ordinal in ordinals:
            entry = self.peek(room, ordinal)
            if entry is None:
                missing.append((room, ordinal))
            else:
                found.append(entry)
        generation = self._generation
        for stored in await self._store.by_ordinals(missing):
            entry = RoomEvent(stored, room_id, version)
            if generation == self._generation:  # nothing was redacted elsewhere while the query ran
                self.put(entry)
            found.append(entry)
        return found

    async def load_many(self, wanted: Iterable[tuple[int, str, RoomVersion, int]]) -> None:
        """Bring events of several rooms, each given as (room, room id, version, ordinal), in with one query."""
        missing = {
            (room, ordinal): (room_id, version)
            for room, room_id, version, ordinal in wanted
            if self.peek(room, ordinal) is None
        }
        generation = self._generation
        for stored in await self._store.by_ordinals(missing):
            if generation != self._generation:
                return
            self.put(RoomEvent(stored, *missing[stored.room, stored.ordinal]))

    def redacted(self, room: int, ordinal: int) -> RoomEvent | None:
        """The event that a redaction strikes, if it is in memory; a copy still on its way from the database is not
        kept."""
        self._generation += 1
        return self._entries.get((room, ordinal))
