# SPDX-License-Identifier: Apache-2.0
"""Rows of a room's timeline for a walk, and what is missing among them fetched from other servers on the way.

Owns when a gap is worth asking for and what a walk does that has to wait for too long: going backwards it ends there,
with a place from which it can go on; going forwards it goes on with what there is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from homeserver.needs import Protocol
from homeserver.rooms.engine import Room
from homeserver.rooms.reading.missing_history import Filling, MissingHistory
from storage.events import StoredEvent, TimelinePlace
from storage.gaps import GapPage

PATIENCE = 10.0
"""Seconds that one page waits for other servers."""
MOST_FILLINGS = 10
"""Gaps asked for on behalf of one page."""
MOST_FORWARDS = 3
_STEP = 2**40
"""Above any position that history has: a place of the next lesser depth there is the same place for events."""


class Batch(Struct, frozen=True):
    """Rows from a place on, nearest first."""

    rows: Sequence[StoredEvent]
    more: bool
    """Whether there may be rows beyond."""
    resume: TimelinePlace | None = None
    """The walk must end before these rows (there are none): where it may be taken up again."""
    whole: bool = False
    """Whether nothing is missing between them, or further on, that could be had."""


class Pages(Protocol):
    """Reads rows; `storage.gaps.GapStore` is one."""

    async def page(self, room: int, start: TimelinePlace, *, backwards: bool, limit: int) -> GapPage: ...


Rows = Callable[[TimelinePlace, int], Awaitable[Batch]]
"""From a place on, up to so many rows."""


class Walk:
    """The rows of one page's walk. `now` gives seconds."""

    def __init__(
        self,
        room: Room,
        *,
        backwards: bool,
        stop: TimelinePlace | None,
        pages: Pages,
        missing: MissingHistory,
        now: Callable[[], float],
    ) -> None:
        self._room = room
        self._backwards = backwards
        self._stop = stop
        self._pages = pages
        self._missing = missing
        self._now = now
        self._deadline: float | None = None
        self._fillings = 0
        self._passed = 0
        """Forwards: gaps of events at most so deep are not asked for any more."""

    async def rows(self, place: TimelinePlace, limit: int) -> Batch:
        """See `Rows`. What is missing before the first of them is asked for if it can be had."""
        while True:
            page = await self._pages.page(self._room.key, place, backwards=self._backwards, limit=limit)
            gap = page.gap
            if gap is None or not self._missing.obtainable(self._room):
                return Batch(page.rows, len(page.rows) == limit, whole=True)
            batch = await (self._down if self._backwards else self._up)(place, page.rows, gap, limit)
            if batch is not None:
                return batch

    async def _down(
        self, place: TimelinePlace, rows: Sequence[StoredEvent], gap: int, limit: int
    ) -> Batch | None:
        """None: there is more to read than there was."""
        above = _count(rows, lambda stored: stored.depth >= gap)
        if above:
            return Batch(rows[:above], True)
        if self._stop is not None and gap <= self._stop.depth:
            return Batch(rows, len(rows) == limit)
        floor = rows[0].depth if rows else 0
        patience = self._patience
        if self._fillings < MOST_FILLINGS and patience > 0:
            self._fillings += 1
            filled = await self._missing.fill(self._room, upto=gap, above=floor, patience=patience)
            if filled.outcome is Filling.FILLED:
                return None
            if filled.outcome is Filling.LOST:
                gap = -1 if filled.next_gap is None else filled.next_gap
                above = _count(rows, lambda stored: stored.depth >= gap)
                return Batch(rows[:above], above < len(rows) or len(rows) == limit or (not rows and gap > 0))
        resume = beside(place, rows[0] if rows else None)
        if resume is None:
            return Batch(rows, len(rows) == limit)
        return Batch((), True, resume)

    async def _up(
        self, place: TimelinePlace, rows: Sequence[StoredEvent], gap: int, limit: int
    ) -> Batch | None:
        """None: there is more to read than there was."""
        if gap <= self._passed:
            return Batch(rows, len(rows) == limit)
        below = _count(rows, lambda stored: stored.depth < gap)
        if below:
            return Batch(rows[:below], True)
        if not rows:
            return Batch(rows, len(rows) == limit)
        patience = self._patience
        if self._fillings < MOST_FORWARDS and patience > 0:
            self._fillings += 1
            filled = await self._missing.fill(self._room, upto=gap, above=place.depth, patience=patience)
            if filled.outcome is Filling.FILLED:
                return None
        self._passed = rows[0].depth
        above = _count(rows, lambda stored: stored.depth <= self._passed)
        return Batch(rows[:above], above < len(rows) or len(rows) == limit)

    @property
    def _patience(self) -> float:
        now = self._now()
        if self._deadline is None:
            self._deadline = now + PATIENCE
        return self._deadline - now


def _count(rows: Sequence[StoredEvent], holds: Callable[[StoredEvent], bool]) -> int:
    """How many rows at the beginning it holds for."""
    for index, stored in enumerate(rows):
        if not holds(stored):
            return index
    return len(rows)


def beside(place: TimelinePlace, following: StoredEvent | None) -> TimelinePlace | None:
    """Another place, further down, with no event in between: clients take a page that ends where it began for the
    last. None if there is none.
    """
    if place.position >= _STEP // 2:
        other = TimelinePlace(place.depth, place.position - 1)
    else:
        other = TimelinePlace(place.depth - 1, _STEP)
    if other.depth < 0 or (following is not None and (following.depth, following.position) >= other):
        return None
    return other


def given(fetch: Callable[[TimelinePlace, int], Awaitable[list[StoredEvent]]]) -> Rows:
    """Rows as something else than the timeline gives them, all that there are."""

    async def rows(place: TimelinePlace, limit: int) -> Batch:
        found = await fetch(place, limit)
        return Batch(found, len(found) == limit)

    return rows


__all__ = ["Batch", "Rows", "Walk", "beside", "given"]
