# SPDX-License-Identifier: Apache-2.0
"""Timelines: the newest events of many rooms within bounds, from memory where they are, else in one query for all.

Owns choosing and trimming. A timeline is the newest events that the reader may see and wants; where those are thinned
out by the filter or by visibility, a few further rounds look behind the page for more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct, field

from homeserver.events import RoomEvent
from homeserver.needs import Protocol
from homeserver.protocol.tokens import PlaceToken
from homeserver.rooms.engine import Room
from storage.events import StoredEvent

ROUNDS = 4
"""Pages looked at for a timeline, each twice as long as the one before."""

Pass = Callable[[RoomEvent], bool]


class Timeline(Struct):
    """The newest events of a room in floor < position ≤ upto."""

    room: Room
    floor: int
    upto: int
    limit: int
    passes: Pass | None = None
    """Which events belong in it; None: all."""
    events: list[RoomEvent] = field(default_factory=list)
    """What belongs in it, oldest first."""
    passed_over: list[RoomEvent] = field(default_factory=list)
    """What does not, yet happened after its start."""
    limited: bool = False
    """There is more between `floor` and the first event."""
    start: int = 0
    """Everything above this position is in `events` or `passed_over`."""
    newest: RoomEvent | None = None
    """The newest event looked at, whatever became of it."""

    @property
    def prev_batch(self) -> PlaceToken | None:
        """The place before its first event; None if nothing was looked at."""
        first = self.events[0] if self.events else None
        if first is not None and self.limited:
            return PlaceToken(first.stored.depth, first.stored.position)
        examined = self.passed_over[0] if self.passed_over else None
        if first is not None and (examined is None or first.stored.position < examined.stored.position):
            return PlaceToken(first.stored.depth, first.stored.position)
        if examined is not None:
            return PlaceToken(examined.stored.depth, examined.stored.position)
        if self.newest is not None:
            return PlaceToken.after(self.newest.stored.depth, self.newest.stored.position)
        return None

    @property
    def happened(self) -> list[RoomEvent]:
        """All events after its start, oldest first, whoever may see them."""
        if not self.passed_over:
            return self.events
        return sorted((*self.events, *self.passed_over), key=_position)

    def open_gap(self) -> None:
        """Say that there is more below `floor`, for a client that may lack it."""
        if not self.limited:
            self.limited = True
            self.start = self.floor

    def begin_after_superseded(self) -> None:
        """Leave out, as one leaves a gap, shown state that was replaced by an event that is not shown.

        A client that is sent the state at the start of the timeline takes the timeline's state events for newer, and
        would go back to the replaced one.
        """
        if not self.passed_over:
            return
        hidden: dict[tuple[str, str | None], int] = {
            (entry.stored.type, entry.stored.state_key): entry.stored.position
            for entry in self.passed_over
            if entry.stored.state_key is not None
        }
        newest: set[tuple[str, str | None]] = set()
        for index in range(len(self.events) - 1, -1, -1):
            stored = self.events[index].stored
            key = stored.type, stored.state_key
            if stored.state_key is None or key in newest:
                continue
            newest.add(key)
            if hidden.get(key, 0) > stored.position:
                self.events = self.events[index + 1 :]
                self.passed_over = [e for e in self.passed_over if e.stored.position > stored.position]
                self.start = stored.position
                self.limited = True
                return

    def begin_at(self, position: int) -> None:
        """Leave out, as one leaves a gap, what came before the event at a position, which does not follow it."""
        self.events = [entry for entry in self.events if entry.stored.position >= position]
        self.passed_over = [entry for entry in self.passed_over if entry.stored.position >= position]
        self.start = position - 1
        self.limited = True

    def begin_after_lost(self, present: Callable[[tuple[str, str]], int | None]) -> None:
        """Leave out, as one leaves a gap, shown state that lost to another branch, and what came before it.

        `present` gives ordinals of the state at the timeline's end. A client takes the timeline's state events for the
        room's state, and would go by what is not.
        """
        newest: set[tuple[str, str]] = set()
        for index in range(len(self.events) - 1, -1, -1):
            stored = self.events[index].stored
            if stored.state_key is None or (stored.type, stored.state_key) in newest:
                continue
            key = stored.type, stored.state_key
            newest.add(key)
            if present(key) != stored.ordinal:
                self.begin_at(stored.position + 1)
                return


class TimelineStore(Protocol):
    """Reads what is not in memory."""

    async def timelines(
        self, ranges: Sequence[tuple[int, int, int]], limit: int
    ) -> dict[int, list[StoredEvent]]: ...


class Timelines:
    """Fills timelines."""

    def __init__(self, store: TimelineStore) -> None:
        self._store = store

    async def fill(self, timelines: Sequence[Timeline]) -> None:
        """Fill all of them. At most one query per round, and none for rooms whose events are in memory."""
        waiting: list[_Search] = []
        for timeline in timelines:
            search = _Search(timeline)
            if not search.in_memory():
                waiting.append(search)
        page = max((search.timeline.limit for search in waiting), default=0) + 1
        for left in range(ROUNDS, 0, -1):
            if not waiting:
                return
            ranges = [(search.timeline.room.key, search.timeline.floor, search.below) for search in waiting]
            found = await self._store.timelines(ranges, page)
            waiting = [
                search
                for search in waiting
                if not search.take(found[search.timeline.room.key], page, left == 1)
            ]
            page *= 2


class _Search:
    """A timeline being filled, newest events first."""

    __slots__ = ("_over", "_wanted", "below", "timeline")

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.below = timeline.upto
        """Events above this position have been looked at."""
        self._wanted: list[RoomEvent] = []
        self._over: list[RoomEvent] = []

    def in_memory(self) -> bool:
        """Fill it from the room's recent events; False if they do not suffice."""
        timeline = self.timeline
        room, floor, upto = timeline.room, timeline.floor, timeline.upto
        recent: list[RoomEvent] = []
        for entry in reversed(room.recent):
            position = entry.stored.position
            if position <= floor:
                break
            if position <= upto and not entry.stored.flags:
                recent.append(entry)
        complete = floor >= room.recent_floor
        if not complete and len(recent) <= timeline.limit:
            return False
        return self._look(recent, complete)

    def take(self, found: list[StoredEvent], page: int, last: bool) -> bool:
        """Look at a page, oldest first; True if the timeline is filled, or at the last round."""
        room = self.timeline.room
        entries = [in_memory(room, stored) for stored in reversed(found)]
        if self._look(entries, len(found) < page):
            return True
        if last:
            self._finish(limited=True, start=self.below)
        return last

    def _look(self, entries: list[RoomEvent], complete: bool) -> bool:
        """Sort events, newest first, until there is one more than is wanted; True if the timeline is filled."""
        timeline = self.timeline
        passes = timeline.passes
        if timeline.newest is None and entries:
            timeline.newest = entries[0]
        for entry in entries:
            if passes is not None and not passes(entry):
                self._over.append(entry)
            elif len(self._wanted) < timeline.limit:
                self._wanted.append(entry)
            else:
                first = self._wanted[-1].stored.position - 1 if self._wanted else entry.stored.position
                self._finish(limited=True, start=max(first, entry.stored.position))
                return True
        if entries:
            self.below = entries[-1].stored.position - 1
        if complete:
            self._finish(limited=False, start=timeline.floor)
        return complete

    def _finish(self, *, limited: bool, start: int) -> None:
        timeline = self.timeline
        timeline.limited = limited
        timeline.start = start
        timeline.events = self._wanted[::-1]
        timeline.passed_over = [entry for entry in reversed(self._over) if entry.stored.position > start]


def in_memory(room: Room, stored: StoredEvent) -> RoomEvent:
    """The object that the room's state shares, if the event is of it, else a new one."""
    if stored.state_key is not None:
        current = room.head.state.get((stored.type, stored.state_key))
        # With another position it is an outlier in memory, which another process has given a place in the past.
        if current is not None and (current.stored.ordinal, current.stored.position) == (
            stored.ordinal,
            stored.position,
        ):
            return current
    return RoomEvent(stored, room.room_id, room.head.version)


def lacks_beginning(timeline: Timeline) -> bool:
    """Whether a timeline of all there is does not reach the room's beginning: other servers have what was before it."""
    happened = timeline.happened
    return not timeline.limited and bool(happened) and happened[0].stored.type != "m.room.create"


def _position(entry: RoomEvent) -> int:
    return entry.stored.position
