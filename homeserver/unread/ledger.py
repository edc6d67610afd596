# SPDX-License-Identifier: Apache-2.0
"""What one user has not read in one room: the places of what notifies, thread by thread. Pure.

Places, not only counts, so that a receipt can be applied without looking at any event again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

from homeserver.unread.counts import Counts, UnreadCounts

UNTHREADED: Final = ""
MAIN: Final = "main"
MOST: Final = 1000
"""Notifications remembered per room; of more, the newest."""

_NONE: Final = UnreadCounts()


class Ledger:
    """One user's room. `position`: how far events were looked at; `since`: where the user's membership began."""

    __slots__ = ("_counts", "_read", "_unread", "position", "since")

    def __init__(self, since: int) -> None:
        self.since = since
        self.position = since
        self._read: dict[str, int] = {UNTHREADED: since}
        """By thread, the position up to which it is read; only what is ahead of the events looked at matters."""
        self._unread: dict[str, list[int]] = {}
        """By thread, oldest first, twice the position of each notification, plus one if it is highlighted."""
        self._counts: UnreadCounts | None = _NONE

    @property
    def is_empty(self) -> bool:
        return not self._unread

    def read_up_to(self, thread: str) -> int:
        """The position up to which a thread (or, UNTHREADED, the whole room) is read."""
        return max(self._read.get(UNTHREADED, 0), self._read.get(thread, 0))

    def read(self, thread: str, position: int) -> None:
        """The user has read a thread, or with UNTHREADED all of the room, up to a position."""
        if position <= self._read.get(thread, 0):
            return
        self._read[thread] = position
        threads = tuple(self._unread) if thread == UNTHREADED else (thread,)
        for each in threads:
            places = self._unread.get(each)
            if places is not None and places[0] >> 1 <= position:
                del places[: bisect_right(places, 2 * position + 1)]
                self._changed(each, places)

    def add(self, thread: str, position: int, *, highlight: bool) -> None:
        """A notification, newer than all so far in its thread; nothing happens if it was read already."""
        if position <= self.read_up_to(thread):
            return
        self._unread.setdefault(thread, []).append(2 * position + highlight)
        self._counts = None
        if sum(map(len, self._unread.values())) > MOST:
            oldest = min(self._unread, key=lambda each: self._unread[each][0])
            del self._unread[oldest][0]
            self._changed(oldest, self._unread[oldest])

    def advance(self, position: int) -> None:
        """All events up to a position were looked at."""
        if position > self.position:
            self.position = position
            if self._read:
                self._read = {thread: place for thread, place in self._read.items() if place > position}

    def strike(self, position: int) -> None:
        """The event at a position was redacted."""
        for thread, places in tuple(self._unread.items()):
            at = bisect_left(places, 2 * position)
            if at < len(places) and places[at] >> 1 == position:
                del places[at]
                self._changed(thread, places)

    def _changed(self, thread: str, places: list[int]) -> None:
        self._counts = None
        if not places:
            del self._unread[thread]

    @property
    def counts(self) -> UnreadCounts:
        """What is unread now."""
        if self._counts is None:
            self._counts = self._count() if self._unread else _NONE
        return self._counts

    def _count(self) -> UnreadCounts:
        by_thread = {
            thread: Counts(len(places), sum(place & 1 for place in places))
            for thread, places in self._unread.items()
        }
        whole = Counts(
            sum(counts.notifications for counts in by_thread.values()),
            sum(counts.highlights for counts in by_thread.values()),
        )
        return UnreadCounts(whole, by_thread.pop(MAIN, Counts()), by_thread)
