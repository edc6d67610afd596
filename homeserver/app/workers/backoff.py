# SPDX-License-Identifier: Apache-2.0
"""When a worker that ended by itself is followed by another: at once, then after ever longer pauses.

Owns the arithmetic; whose time it is counted in is told.
"""

from __future__ import annotations

from typing import Final

LONGEST: Final = 60.0
SETTLED: Final = 60.0
"""Seconds without a death after which the next one is the first again."""


class Backoff:
    """One for all workers: what kills one of them, most likely kills the next."""

    def __init__(self) -> None:
        self._deaths = 0
        self._last = float("-inf")
        """When the last one ended that counted."""
        self.ready_at = float("-inf")
        """When the next may start."""

    def died(self, now: float, started: float) -> float:
        """A worker that was started at some time ended; the seconds until the next may start.

        One that was there already when the last death was counted ended of the same, or at least not of having been
        started anew: all that end together count once.
        """
        if started < self._last:
            return max(0.0, self.ready_at - now)
        if now - max(self._last, self.ready_at) >= SETTLED:
            self._deaths = 0
        pause = 0.0 if self._deaths == 0 else min(LONGEST, 2.0 ** (self._deaths - 1))
        self._deaths += 1
        self._last = now
        self.ready_at = now + pause
        return pause
