# SPDX-License-Identifier: Apache-2.0
"""The clock of what is never stored: typing notices, presence.

A hybrid clock: serials are milliseconds of the wall clock where that moves, and count on where it stands or steps
back, so they always grow here and stay comparable across processes and restarts, whose clocks agree within moments.
Whoever applies news that another process made gives it a serial of its own by `next`, not the maker's: a client
that was told "everything at or below t" here must not find, later, something at or below t that it was not told.
"""

from __future__ import annotations

from collections.abc import Callable


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
        """Take note of a serial that another process gave out, so that ours are greater from now on."""
        self._current = max(self._current, serial)
