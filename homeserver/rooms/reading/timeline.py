# SPDX-License-Identifier: Apache-2.0
"""Pages of a room's timeline as one user sees it.

Owns the walk: rows are read until enough of them are visible and wanted, or the range ends, or enough rows were looked
at for one request; in the last case the page ends where the walk did, so that whoever follows its token gets on even
if nothing on the way may be shown to them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from homeserver.events import RoomEvent
from homeserver.protocol.filters import RoomEventFilter
from homeserver.rooms.access import RoomAccess, RoomGate
from homeserver.rooms.engine import Room
from homeserver.rooms.reading import places
from homeserver.rooms.reading.missing_history import MissingHistory
from homeserver.rooms.reading.past_stays import PastStays
from homeserver.rooms.reading.walking import Pages, Walk, given
from storage.events import StoredEvent, TimelinePlace

MOST_LOOKED_AT = 2000
"""Rows read for one page at most, the last batch aside."""

LARGEST_BATCH = 500

Wanted = Callable[[RoomEvent], bool]
Fetch = Callable[[TimelinePlace, int], Awaitable[list[StoredEvent]]]
"""From a place on, up to so many rows, nearest first."""


@dataclass(frozen=True, slots=True)
class TimelinePage:
    """Events in the order of the walk; `end` is where it ended, None if there is nothing beyond."""

    events: list[RoomEvent]
    end: TimelinePlace | None


@dataclass(frozen=True, slots=True)
class Range:
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
        seconds: Callable[[], float],
    ) -> None:
        """`seconds` is the time, for how long a page waits for other servers."""
        self._pages = pages
        self._gate = gate
        self._places = walks
        self._stays = stays
        self._missing = missing
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
        read = self._walk(access.room, within).rows if fetch is None else given(fetch)
        found: list[RoomEvent] = []
        place, looked_at = within.start, 0
        batch = max(limit + 1, 20) if wanted is None else max(2 * limit, 100)
        batch = min(batch, max(LARGEST_BATCH, limit + 1))
        while True:
            portion = await read(place, batch)
            rows = portion.rows
            await self._stays.settle(access, rows)
            for index, stored in enumerate(rows):
                if within.passed(stored):
                    # The stop was asked for; beyond it there is more. Beyond what one may see there is not.
                    return TimelinePage(
                        found, within.stop if found and wanted_range.stop == within.stop else None
                    )
                place = places.before(stored) if within.backwards else places.after(stored)
                entry = self._gate.in_memory(access.room, stored)
                if not access.sight.may_see(entry) or (wanted is not None and not wanted(entry)):
                    continue
                found.append(entry)
                if len(found) == limit:
                    more = index + 1 < len(rows) or portion.more
                    return TimelinePage(found, place if more else None)
            if portion.resume is not None:
                return TimelinePage(found, portion.resume if place == within.start else place)
            if not portion.more:
                return TimelinePage(found, None)
            looked_at += len(rows)
            if looked_at >= MOST_LOOKED_AT:
                return TimelinePage(found, place)
            batch = LARGEST_BATCH

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
