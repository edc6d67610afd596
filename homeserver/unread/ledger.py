# SPDX-License-Identifier: Apache-2.0
"""What one user has not read in one room: the places of what notifies, thread by thread. Pure.

Places, not only counts, so that a receipt can be applied without looking at any event again.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import Final

from homeserver.protocol.push_rules import Reader
from homeserver.unread.counts import Counts, UnreadCounts, main_counts

UNTHREADED: Final = ""
MAIN: Final = "main"
MOST: Final = 1000
"""Notifications remembered per room; of more, the newest."""
THREADS_AS_ONE: Final = 3
"""Threads with anything unread that weigh about as much as a ledger without;"""
PLACES_AS_ONE: Final = 100
"""and so many notifications."""

_NONE: Final = UnreadCounts()


class _Thread:
    """What is unread of one thread: oldest first, twice the position of each, plus one if it is highlighted."""

    __slots__ = ("highlights", "places")

    def __init__(self) -> None:
        self.places = array("q")  # eight bytes each, where a list of numbers is forty
        self.highlights = 0

    def remove(self, start: int, end: int) -> int:
        """Take out those from index `start` to before `end`; how many there were."""
        self.highlights -= sum(place & 1 for place in self.places[start:end])
        del self.places[start:end]
        return end - start


class Ledger:
    """One user's room. `position`: how far events were looked at; `since`: where the user's membership began."""

    __slots__ = (
        "_counts",
        "_read",
        "_size",
        "_unread",
        "extra",
        "extra_counted",
        "position",
        "reader",
        "since",
    )

    def __init__(self, since: int) -> None:
        self.since = since
        self.position = since
        self.reader: tuple[int, Reader] | None = None
        """The user as rules ask of them, where that is known, with the ordinal of the member event that says so."""
        self._read: dict[str, int] = {UNTHREADED: since}
        """By thread, the position up to which it is read; only what is ahead of the events looked at matters."""
        self._unread: dict[str, _Thread] = {}
        """The threads that have any."""
        self._size = 0
        self.extra = self.extra_counted = 0
        """What it weighs besides itself, in ledgers without much unread; and what of that its holder has counted."""
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
        for each in tuple(self._unread) if thread == UNTHREADED else (thread,):
            unread = self._unread.get(each)
            if unread is not None:
                self._remove(each, 0, bisect_right(unread.places, 2 * position + 1))

    def add(self, thread: str, position: int, *, highlight: bool) -> None:
        """A notification, newer than all so far in its thread; nothing happens if it was read already."""
        if position <= self.read_up_to(thread):
            return
        unread = self._unread.get(thread)
        if unread is None:
            unread = self._unread[thread] = _Thread()
            self._weigh()
        unread.places.append(2 * position + highlight)
        unread.highlights += highlight
        self._size += 1
        self._counts = None
        if not self._size % PLACES_AS_ONE:
            self._weigh()
        if self._size > MOST:
            self._remove(min(self._unread, key=lambda each: self._unread[each].places[0]), 0, 1)

    def advance(self, position: int) -> None:
        """All events up to a position were looked at."""
        if position > self.position:
            self.position = position
            if self._read and min(self._read.values()) <= position:
                self._read = {thread: place for thread, place in self._read.items() if place > position}

    def strike(self, position: int) -> None:
        """The event at a position was redacted."""
        for thread, unread in tuple(self._unread.items()):
            at = bisect_left(unread.places, 2 * position)
            self._remove(thread, at, bisect_right(unread.places, 2 * position + 1))

    def _remove(self, thread: str, start: int, end: int) -> None:
        if start < end:
            unread = self._unread[thread]
            self._size -= unread.remove(start, end)
            self._counts = None
            if not unread.places:
                del self._unread[thread]
            self._weigh()

    def _weigh(self) -> None:
        self.extra = len(self._unread) // THREADS_AS_ONE + self._size // PLACES_AS_ONE

    @property
    def counts(self) -> UnreadCounts:
        """What is unread now."""
        if self._counts is None:
            self._counts = self._count() if self._unread else _NONE
        return self._counts

    def _count(self) -> UnreadCounts:
        only = self._unread.get(MAIN) if len(self._unread) == 1 else None
        if only is not None:
            return main_counts(len(only.places), only.highlights)
        threads = {
            thread: Counts(len(unread.places), unread.highlights) for thread, unread in self._unread.items()
        }
        main = threads.pop(MAIN, None)
        highlights = sum(unread.highlights for unread in self._unread.values())
        return UnreadCounts(Counts(self._size, highlights), main or Counts(), threads)
