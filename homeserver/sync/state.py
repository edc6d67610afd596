# SPDX-License-Identifier: Apache-2.0
"""A room's state at a position of its past, and what changed between two positions.

Near the present the state is the room's head with the events since then undone: each names what it replaced. Across a
gap, whose events are not looked at, it is the difference of two snapshots. Both give ordinals; `EventLoader` fetches
the events of many rooms at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from pyroaring import BitMap

from homeserver.events import RoomEvent
from homeserver.needs import Protocol
from homeserver.rooms.engine import Room, RoomHead
from homeserver.rooms.engine.snapshots import state_at
from storage.events import StoredEvent
from storage.state import SnapshotDelta

MEMBER = "m.room.member"
StateKey = tuple[str, str]


def state_key_of(entry: RoomEvent) -> StateKey:
    """Of a state event."""
    stored = entry.stored
    assert stored.state_key is not None
    return stored.type, stored.state_key


def newest_by_key(events: Iterable[RoomEvent]) -> dict[StateKey, RoomEvent]:
    """Of events oldest first, the state they leave behind."""
    return {state_key_of(entry): entry for entry in events if entry.stored.state_key is not None}


class StateView:
    """A room's state before some of its newest events. Where the two differ, `undone` has what stood there."""

    __slots__ = ("head", "undone")

    def __init__(self, head: RoomHead, newer: Sequence[RoomEvent] = ()) -> None:
        """`newer` are all events after the position, oldest first."""
        self.head = head
        self.undone: dict[StateKey, int | None] = {}
        for entry in reversed(newer):
            if entry.stored.state_key is not None:
                self.undone[state_key_of(entry)] = entry.stored.replaces

    def others(self) -> Iterator[RoomEvent | int]:
        """The state but for members: events, or the ordinals of those to load."""
        undone = self.undone
        for key, entry in self.head.state.items():
            if key not in undone:
                yield entry
        for key, ordinal in undone.items():
            if key[0] != MEMBER and ordinal is not None:
                yield ordinal

    def members(self) -> Iterator[int]:
        """The ordinals of all member events."""
        undone = self.undone
        for user_id, member in self.head.members.items():
            if not undone or (MEMBER, user_id) not in undone:
                yield member.ordinal
        for key, ordinal in undone.items():
            if key[0] == MEMBER and ordinal is not None:
                yield ordinal

    def ordinal(self, key: StateKey) -> int | None:
        """The ordinal of a piece of the state, if there is one."""
        if key[0] == MEMBER:
            return self.member(key[1])
        if key in self.undone:
            return self.undone[key]
        entry = self.head.state.get(key)
        return None if entry is None else entry.stored.ordinal

    def member(self, user_id: str) -> int | None:
        """The ordinal of a user's member event, if they had one."""
        key = (MEMBER, user_id)
        if key in self.undone:
            return self.undone[key]
        member = self.head.members.get(user_id)
        return None if member is None else member.ordinal


class EventMemory(Protocol):
    """Events in memory by room and ordinal; `rooms.engine.member_events.MemberEvents` is one."""

    @property
    def generation(self) -> int: ...

    def peek(self, room: int, ordinal: int) -> RoomEvent | None: ...

    def put_read(self, entry: RoomEvent, generation: int) -> None: ...


class EventStore(Protocol):
    """Reads events by room and ordinal."""

    async def by_ordinals(self, wanted: Iterable[tuple[int, int]]) -> list[StoredEvent]: ...


Place = tuple[int, int]
"""Room and ordinal."""


class EventLoader:
    """Events by room and ordinal, those not in memory in one query."""

    def __init__(self, memory: EventMemory, store: EventStore) -> None:
        self._memory = memory
        self._store = store

    async def load(
        self, wanted: Iterable[Place], rooms: Mapping[int, Room], known: Mapping[Place, RoomEvent]
    ) -> Mapping[Place, RoomEvent]:
        """`rooms` by key must have each room that is wanted from; `known` are at hand already."""
        found: dict[Place, RoomEvent] = {}
        missing: list[Place] = []
        peek = self._memory.peek
        for place in wanted:
            entry = known.get(place) or peek(*place)
            if entry is None:
                missing.append(place)
            else:
                found[place] = entry
        if missing:
            generation = self._memory.generation
            for stored in await self._store.by_ordinals(missing):
                room = rooms[stored.room]
                entry = RoomEvent(stored, room.room_id, room.head.version)
                self._memory.put_read(entry, generation)
                found[stored.room, stored.ordinal] = entry
        return found


class RoomHistory(Protocol):
    """Reads the past of rooms' state (`storage/room_history.py`)."""

    async def snapshots_as_of(self, places: Sequence[tuple[int, int]]) -> dict[int, int]: ...

    async def snapshots_before_next(self, places: Sequence[tuple[int, int]]) -> dict[int, int]: ...

    async def chains(
        self, wanted: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], list[SnapshotDelta]]: ...

    async def redacted_between(self, spans: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]: ...


class Gap(Struct, frozen=True):
    """A stretch of a room whose events are not shown: after < position ≤ upto."""

    room: int
    after: int
    """0: from the room's beginning, so that the whole state at its end is new."""
    upto: int
    present: int
    """Snapshot of the room's present state, which is the state at the gap's end if nothing has happened since."""


async def changes_across(history: RoomHistory, gaps: Sequence[Gap]) -> dict[int, list[int]]:
    """For each gap's room, the ordinals that its state has at the end and had not, or not unredacted, at the start.

    Four queries, however many gaps there are.
    """
    if not gaps:
        return {}
    ends = await history.snapshots_before_next([(gap.room, gap.upto) for gap in gaps])
    begun = [(gap.room, gap.after) for gap in gaps if gap.after > 0]
    starts = await history.snapshots_as_of(begun)
    wanted = {(room, snapshot) for points in (starts, ends) for room, snapshot in points.items()}
    wanted.update((gap.room, gap.present) for gap in gaps if gap.room not in ends)
    chains = await history.chains(sorted(wanted))
    redacted = await history.redacted_between(
        [(gap.room, gap.after, gap.upto) for gap in gaps if gap.after > 0]
    )
    struck: dict[int, BitMap] = {}
    for room, ordinal in redacted:
        struck.setdefault(room, BitMap()).add(ordinal)
    changes: dict[int, list[int]] = {}
    for gap in gaps:
        end = state_at(chains.get((gap.room, ends.get(gap.room, gap.present)), ()))
        start = state_at(chains.get((gap.room, starts.get(gap.room, 0)), ())) if gap.after > 0 else BitMap()
        changes[gap.room] = list((end - start) | (end & struck.get(gap.room, BitMap())))
    return changes
