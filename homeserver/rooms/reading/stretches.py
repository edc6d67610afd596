# SPDX-License-Identifier: Apache-2.0
"""Stretches of timelines that were read lately, shared by all who read them.

The members of a room read the same pages: the newest, and what lies before their last sync. So of each room the stretch
that was read last is kept, its events in the form in which they go out, and which of them have children. Who reads it
again needs no query, and nothing is parsed or encoded anew.

A stretch is of one head of its room. When that has moved, the stretch is brought up to date by the room's newest events
if these are in memory and can have changed nothing in it, and is forgotten otherwise: after a redaction, history, a
load of the room as a whole, or anything new in a room of other servers too (which may come below others, or with a
gap). What a user may see of it is decided by those who ask. Bounded by a budget in bytes, the rooms read longest ago
out first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence, Set
from typing import Final, NamedTuple

from msgspec import Struct

from homeserver.events import RoomEvent
from homeserver.needs import Protocol
from homeserver.protocol.relations import relation_of
from homeserver.rooms.engine import Room, RoomHead
from homeserver.rooms.reading import places
from storage.events import TimelinePlace

MOST: Final = 500
"""Events of one stretch."""


class Parents(Protocol):
    """Tells events that have children; `storage.parents.ParentStore` is one."""

    def among(self, room: int, event_ids: Sequence[str]) -> Awaitable[set[str]]: ...


class Mark(NamedTuple):
    """What tells one head of a room from another, and where it ends."""

    head: int
    position: int
    depth: int
    oldest_position: int

    @classmethod
    def of(cls, head: RoomHead) -> Mark:
        return cls(head.head, head.position, head.depth, head.oldest_position)


class Piece(Struct, frozen=True):
    """Events of a stretch, newest first."""

    entries: list[RoomEvent]
    more: bool
    """Whether there are, or may be, others before them."""
    parents: Set[str]
    """Ids among which are all events of these that have children."""


class _Stretch:
    """`entries` lie between the places `low` and `high`, in the timeline's order, and so does nothing else."""

    __slots__ = ("complete", "entries", "high", "is_open", "low", "mark", "parents", "places", "weight")

    def __init__(self, mark: Mark, high: TimelinePlace, entries: list[RoomEvent]) -> None:
        self.mark = mark
        self.high = high
        self.is_open = high >= TimelinePlace(mark.depth, mark.position + 1)
        """Whether it reaches the end of the timeline."""
        self.entries = entries
        self.places = [places.before(entry.stored) for entry in entries]
        self.low = self.places[0] if entries else high
        self.complete = False
        """Whether there is nothing before it."""
        self.parents: set[str] = set()
        self.weight = 500 + sum(map(_weight, entries))


class Stretches:
    """One per process. `elsewhere` tells whether other servers write a room, too."""

    def __init__(self, *, parents: Parents, elsewhere: Callable[[Room], bool], budget: int) -> None:
        self._parents = parents
        self._elsewhere = elsewhere
        self._budget = budget
        self._weight = 0
        self._held: OrderedDict[int, _Stretch] = OrderedDict()

    @property
    def weight(self) -> int:
        """About how many bytes they take."""
        return self._weight

    def before(self, room: Room, start: TimelinePlace, count: int) -> Piece | None:
        """The nearest `count` events before a place, or all there are; None if they are not in memory."""
        stretch = self._held.get(room.key)
        if stretch is None:
            return None
        if stretch.mark.head != room.head.head and not self._follow(stretch, room):
            self._forget(room.key)
            return None
        if start > stretch.high and not stretch.is_open:
            return None
        end = bisect_left(stretch.places, start)
        if start < stretch.low or (end < count and not stretch.complete):
            return None
        self._held.move_to_end(room.key)
        first = max(0, end - count)
        entries = stretch.entries[first:end]
        entries.reverse()
        return Piece(entries, first > 0 or not stretch.complete, stretch.parents)

    async def keep(
        self, room: Room, mark: Mark, start: TimelinePlace, entries: Sequence[RoomEvent], *, more: bool
    ) -> Piece:
        """Take up events before a place, nearest first, that were read when the room had that head already.

        Nothing may be missing between them that other servers have. `more`: whether there may be others before them.
        """
        asked = [entry.stored.event_id for entry in entries if entry.stored.state_key is None]
        parents = await self._parents.among(room.key, asked)
        if Mark.of(room.head) == mark and all(entry.stored.position <= mark.position for entry in entries):
            self._take_up(room.key, self._joined(room.key, mark, start, entries, parents), complete=not more)
        return Piece(list(entries), more, parents)

    def _joined(
        self, key: int, mark: Mark, start: TimelinePlace, entries: Sequence[RoomEvent], parents: set[str]
    ) -> _Stretch | None:
        """The events with what is held next to them; None if what is held is worth more."""
        held = self._held.get(key)
        if held is not None and held.mark == mark:
            if held.low <= start and (start <= held.high or held.is_open):
                rest = held.entries[bisect_left(held.places, start) :]
                if len(entries) + len(rest) > MOST:
                    return None  # somebody reads far back
                stretch = _Stretch(mark, max(held.high, start), [*reversed(entries), *rest])
                stretch.is_open |= held.is_open
                stretch.parents = held.parents | parents
                return stretch
            if held.is_open and start < held.low:
                return None
        stretch = _Stretch(mark, start, [*reversed(entries)])
        stretch.parents = parents
        return stretch

    def _take_up(self, key: int, stretch: _Stretch | None, *, complete: bool) -> None:
        if stretch is None or len(stretch.entries) > MOST:
            return
        stretch.complete = complete
        self._forget(key)
        self._held[key] = stretch
        self._weight += stretch.weight
        while self._weight > self._budget and self._held:
            self._forget(next(iter(self._held)))

    def _forget(self, key: int) -> None:
        stretch = self._held.pop(key, None)
        if stretch is not None:
            self._weight -= stretch.weight

    def _follow(self, stretch: _Stretch, room: Room) -> bool:
        """Bring it up to the room's present head; False if that cannot be done."""
        known, mark = stretch.mark, Mark.of(room.head)
        news = room.recent_since(known.position)
        if news is None or mark.oldest_position != known.oldest_position or self._elsewhere(room):
            return False
        newest = news[-1].stored.position if news else known.position
        if newest != mark.position or not all(_follows(entry, known) for entry in news):
            return False  # in the first case something else was done to the room
        if stretch.is_open and not self._append(stretch, news):
            return False
        relations = (relation_of(entry.event.content) for entry in news)
        stretch.parents.update(relation.event_id for relation in relations if relation is not None)
        stretch.mark = mark
        return len(stretch.parents) <= 2 * MOST

    def _append(self, stretch: _Stretch, news: Sequence[RoomEvent]) -> bool:
        """False if it would be too long, or they lie not in the order in which they came."""
        last = stretch.places[-1] if stretch.places else stretch.low
        after = [places.before(entry.stored) for entry in news]
        if len(stretch.entries) + len(news) > MOST or any(
            here <= before for before, here in zip([last, *after], after, strict=False)
        ):
            return False
        stretch.entries += news
        stretch.places += after
        growth = sum(map(_weight, news))
        stretch.weight += growth
        self._weight += growth
        return True


def _follows(entry: RoomEvent, known: Mark) -> bool:
    """Whether the event changes nothing of what came before, and lies after it."""
    stored = entry.stored
    return stored.type != "m.room.redaction" and stored.depth > known.depth and stored.redacted_by is None


def _weight(entry: RoomEvent) -> int:
    """About how many bytes of memory an event takes whose content is not parsed."""
    return 1200 + 2 * len(entry.stored.pdu)
