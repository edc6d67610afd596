# SPDX-License-Identifier: Apache-2.0
"""Pages of a room's timeline as one user sees it.

Owns the walk: rows are read until enough of them are visible and wanted, or the range ends, or enough rows were looked
at for one request; in the last case the page ends where the walk did, so that whoever follows its token gets on even
if nothing on the way may be shown to them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Set
from typing import NamedTuple

from msgspec import Struct

from homeserver.events import RoomEvent
from homeserver.protocol.filters import RoomEventFilter
from homeserver.rooms.access import RoomAccess, RoomGate, Sight
from homeserver.rooms.engine import Room
from homeserver.rooms.reading import places
from homeserver.rooms.reading.missing_history import MissingHistory
from homeserver.rooms.reading.past_stays import PastStays
from homeserver.rooms.reading.stretches import Mark, Stretches
from homeserver.rooms.reading.walking import Pages, Walk, given
from storage.events import StoredEvent, TimelinePlace

MOST_LOOKED_AT = 2000
"""Rows read for one page at most, the last batch aside."""

LARGEST_BATCH = 500

Wanted = Callable[[RoomEvent], bool]
Fetch = Callable[[TimelinePlace, int], Awaitable[list[StoredEvent]]]
"""From a place on, up to so many rows, nearest first."""


class TimelinePage(Struct, frozen=True):
    """Events in the order of the walk; `end` is where it ended, None if there is nothing beyond."""

    events: list[RoomEvent]
    end: TimelinePlace | None
    parents: Set[str] | None = None
    """Ids among which are all events of these that have children; None: any may have."""


class Range(Struct, frozen=True):
    """From where, in which direction, and to where (None: as far as it goes)."""

    start: TimelinePlace
    backwards: bool
    stop: TimelinePlace | None = None

    def passed(self, stored: StoredEvent) -> bool:
        """Whether an event lies beyond the stop."""
        if self.stop is None:
            return False
        place = places.before(stored)
        return place < self.stop if self.backwards else place >= self.stop

    def beyond(self, stored: StoredEvent) -> TimelinePlace:
        """Where the walk is once it has passed an event."""
        return places.before(stored) if self.backwards else places.after(stored)


class _Portion(NamedTuple):
    """A part of the range, in the order of the walk; see `walking.Batch` and `TimelinePage`."""

    entries: list[RoomEvent]
    more: bool
    resume: TimelinePlace | None
    parents: Set[str] | None


_Read = Callable[[TimelinePlace, int], Awaitable[_Portion]]


class _Look(NamedTuple):
    """A walk that looks at each event."""

    read: _Read
    first: _Portion
    limit: int
    wanted: Wanted | None


class TimelineReader:
    """Walks timelines. One per process."""

    def __init__(
        self,
        *,
        pages: Pages,
        gate: RoomGate,
        walks: places.Places,
        stays: PastStays,
        missing: MissingHistory,
        stretches: Stretches,
        seconds: Callable[[], float],
    ) -> None:
        """`seconds` is the time, for how long a page waits for other servers."""
        self._pages = pages
        self._gate = gate
        self._places = walks
        self._stays = stays
        self._missing = missing
        self._stretches = stretches
        self._seconds = seconds

    async def page(
        self,
        access: RoomAccess,
        wanted_range: Range,
        limit: int,
        wanted: Wanted | None = None,
        fetch: Fetch | None = None,
    ) -> TimelinePage:
        """Up to `limit` (at least 1) events of the range that the user may see and that are wanted.

        `fetch` gives rows in the direction of the range; None: all there are in the timeline.
        """
        within = await self._within_reach(access, wanted_range)
        read = self._reading(access.room, within, fetch, None if wanted else limit + 1)
        batch = max(limit + 1, 20) if wanted is None else max(2 * limit, 100)
        portion = await read(within.start, min(batch, max(LARGEST_BATCH, limit + 1)))
        if wanted is None and within.stop is None:
            page = _seen_whole(access.sight, within, portion, limit)
            if page is not None:
                return page
        stop = within.stop if wanted_range.stop == within.stop else None
        return await self._look_at_each(access, within, stop, _Look(read, portion, limit, wanted))

    async def _look_at_each(
        self, access: RoomAccess, within: Range, stop: TimelinePlace | None, look: _Look
    ) -> TimelinePage:
        """`stop` is where the reader asked to stop, if that is what ends the range."""
        found: list[RoomEvent] = []
        place, looked_at, portion, wanted = within.start, 0, look.first, look.wanted
        parents = portion.parents
        while True:
            entries = portion.entries
            await self._stays.settle(access, (entry.stored for entry in entries))
            for index, entry in enumerate(entries):
                if within.passed(entry.stored):
                    # The stop was asked for; beyond it there is more. Beyond what one may see there is not.
                    return TimelinePage(found, stop if found else None)
                place = within.beyond(entry.stored)
                if not access.sight.may_see(entry) or (wanted is not None and not wanted(entry)):
                    continue
                found.append(entry)
                if len(found) == look.limit:
                    more = index + 1 < len(entries) or portion.more
                    return TimelinePage(found, place if more else None, parents)
            if portion.resume is not None:
                return TimelinePage(found, portion.resume if place == within.start else place)
            if not portion.more:
                return TimelinePage(found, None, parents)
            looked_at += len(entries)
            if looked_at >= MOST_LOOKED_AT:
                return TimelinePage(found, place)
            portion = await look.read(place, LARGEST_BATCH)
            parents = None

    def _reading(self, room: Room, within: Range, fetch: Fetch | None, enough: int | None) -> _Read:
        """How portions of the range are had. `enough`: so many events make the page, and are worth remembering."""
        rows = self._walk(room, within).rows if fetch is None else given(fetch)
        shared = fetch is None and within.backwards

        async def read(place: TimelinePlace, limit: int) -> _Portion:
            if shared:
                piece = self._stretches.before(room, place, limit if enough is None else min(limit, enough))
                if piece is not None:
                    return _Portion(piece.entries, piece.more, None, piece.parents)
            mark = Mark.of(room.head)
            batch = await rows(place, limit)
            entries = [self._gate.in_memory(room, stored) for stored in batch.rows]
            if not shared or enough is None or not batch.whole:
                return _Portion(entries, batch.more, batch.resume, None)
            piece = await self._stretches.keep(room, mark, place, entries, more=batch.more)
            return _Portion(piece.entries, piece.more, batch.resume, piece.parents)

        return read

    def _walk(self, room: Room, within: Range) -> Walk:
        return Walk(
            room,
            backwards=within.backwards,
            stop=within.stop,
            pages=self._pages,
            missing=self._missing,
            now=self._seconds,
        )

    async def _within_reach(self, access: RoomAccess, wanted: Range) -> Range:
        """The part of the range at or before the point where the user left: nothing after it is theirs to see."""
        if access.until is None:
            return wanted
        left = await self._places.after_position(access.room, access.until)
        if wanted.backwards:
            return Range(min(wanted.start, left), True, wanted.stop)
        return Range(wanted.start, False, left if wanted.stop is None else min(wanted.stop, left))


def _seen_whole(sight: Sight, within: Range, portion: _Portion, limit: int) -> TimelinePage | None:
    """The page, for one who has been in the room ever since its oldest event; None: each must be looked at."""
    shown = portion.entries[:limit]
    beyond = len(portion.entries) > limit
    if not shown or (not beyond and (portion.more or portion.resume)):
        return None
    oldest = min(entry.stored.position for entry in shown)
    if not sight.sees_all_above(oldest - 1):
        return None
    return TimelinePage(shown, within.beyond(shown[-1].stored) if beyond else None, portion.parents)


def wanted_by(wish: RoomEventFilter, ignored: frozenset[str], room: Room) -> Wanted | None:
    """What a filter and the user's list of ignored users let through; None: everything.

    Of ignored users only state events are shown (client-server API, "Ignoring Users").
    """
    if not wish.allows_room(room.room_id):
        return lambda _entry: False
    if wish.allows_all and wish.contains_url is None:
        if not ignored:
            return None
        return lambda entry: entry.stored.state_key is not None or entry.stored.sender not in ignored

    def wanted(entry: RoomEvent) -> bool:
        stored = entry.stored
        if stored.state_key is None and stored.sender in ignored:
            return False
        if not wish.allows(stored.type, stored.sender):
            return False
        return wish.contains_url is None or ("url" in entry.event.content) is wish.contains_url

    return wanted
