# SPDX-License-Identifier: Apache-2.0
"""Events kept in memory by room and ordinal: member events above all, which rooms themselves do not hold.

A cache with a budget in bytes, least recently used out first. An event in it is a shared object, so a redaction that is
written here is seen here. What another process redacted is struck when the rooms' cache follows it there (`struck`);
of a room that it does not follow, `drop` forgets everything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from homeserver.events import RoomEvent
from homeserver.protocol.room_versions import RoomVersion
from homeserver.stream.changes import Change
from storage.events import EventStore

MOST_STRUCK = 1000


class MemberEvents:
    """One per process; subscribes to the stream."""

    def __init__(self, store: EventStore, budget: int) -> None:
        self._store = store
        self._budget = budget
        self._weight = 0
        self._entries: OrderedDict[tuple[int, int], RoomEvent] = OrderedDict()
        self._ordinals: dict[int, set[int]] = {}
        """By room, what is held of it."""
        self._generation = 0
        self._struck: dict[int, int] = {}
        """By room, the generation that a redaction or a `drop` began."""
        self._floor = 0
        """The same for rooms that are not among them."""

    @property
    def weight(self) -> int:
        """About how many bytes it holds."""
        return self._weight

    @property
    def generation(self) -> int:
        """Grows whenever something may have been redacted: see `put_read`."""
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

    def put_read(self, entry: RoomEvent, generation: int) -> None:
        """As `put`, of an event whose reading began at that generation, unless it may have been redacted since."""
        if self._struck.get(entry.stored.room, self._floor) <= generation:
            self.put(entry)

    def _strike(self, room: int) -> None:
        self._generation += 1
        if len(self._struck) >= MOST_STRUCK:
            self._struck.clear()
            self._floor = self._generation
        self._struck[room] = self._generation

    def drop(self, room: int) -> None:
        """Forget all of a room: something of it may have been redacted, it is not known what."""
        self._strike(room)
        for ordinal in tuple(self._ordinals.get(room, ())):
            self._drop((room, ordinal))

    def _drop(self, key: tuple[int, int]) -> None:
        self._weight -= self._entries.pop(key).weight
        ordinals = self._ordinals[key[0]]
        ordinals.discard(key[1])
        if not ordinals:
            del self._ordinals[key[0]]

    def changed(self, change: Change) -> Iterable[str]:
        """Nobody knows what was written: anything may have been redacted."""
        if change.unknown:
            self._generation += 1
            self._struck.clear()
            self._floor = self._generation
            for key in tuple(self._entries):
                self._drop(key)
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
            self.put_read(entry, generation)
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
            self.put_read(RoomEvent(stored, *missing[stored.room, stored.ordinal]), generation)

    def redacted(self, room: int, ordinal: int) -> RoomEvent | None:
        """The event that a redaction strikes, if it is in memory; a copy still on its way from the database is not
        kept."""
        self._strike(room)
        return self._entries.get((room, ordinal))
