# SPDX-License-Identifier: Apache-2.0
"""The clock of what is never stored: typing notices, presence.

A hybrid clock: serials are milliseconds of the wall clock where that moves, and count on where it stands or steps
back, so they always grow here and stay comparable across processes and restarts, whose clocks agree within moments.
Whoever applies news that another process made gives it a serial of its own by `next`, not the maker's: a client
that was told "everything at or below t" here must not find, later, something at or below t that it was not told.

So it is with a client that comes with the token of another process, which may have been made within the same
millisecond or by a clock that is ahead: its serial is observed before anything else is applied. What had been applied
here already, but not where the client was told, has a lower serial and is not told it again. That is the price of one
number for all processes, and small: notices of typing end by themselves, presence is news again when it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MOST_AHEAD: Final = 1_000
"""Milliseconds by which another process may be ahead. Tokens come from clients, and are not to move our clock far."""


class EphemeralClock:
    """One per process."""

    __slots__ = ("_current", "_now")

    def __init__(self, now: Callable[[], int]) -> None:
        """`now` gives the wall clock in milliseconds."""
        self._now = now
        self._current = now()

    @property
    def current(self) -> int:
        """The newest serial given out: everything fleeting known here is at or below it."""
        return self._current

    def next(self) -> int:
        """A serial greater than every one before it."""
        self._current = max(self._current + 1, self._now())
        return self._current

    def observe(self, serial: int) -> None:
        """Take note of a serial that another process gave out, so that ours are greater from now on.

        One that is `MOST_AHEAD` of the wall clock was given out by nobody, and counts as if it were there.
        """
        if serial > self._current:
            self._current = max(self._current, min(serial, self._now() + MOST_AHEAD))
