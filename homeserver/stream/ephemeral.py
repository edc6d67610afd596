# SPDX-License-Identifier: Apache-2.0
"""The clock of what is never stored: typing notices, presence.

A client's token says "everything fleeting at or below this serial", at whichever process it asks next. So all processes
of a server number the same news alike. News is a notification of the database, which brings all notifications to all
listeners in one order, and gets its serial when it is *heard*, by the process that made it too. `apply` knows no wall
clock: it takes what the maker proposed, or one more than the newest, so that whoever heard the same comes to the same.
`hearing.py` makes a request wait for what was told before it. A process that is by itself numbers at once, by `next`.

Proposals are milliseconds of the maker's wall clock, or one more than anything it knows was given out, as a token that
it was shown: so serials grow over restarts too, whose clocks agree within moments. A process begins at 0, having told
nobody anything; it agrees with those who were there before from the first proposal on that is ahead of theirs, mostly
the first it hears: not where two proposals cross, and the second is behind what they made of the first.

Three moments are not exact. What was made by a process alone just before another came has a serial of the one's wall
clock, that of the next news may be of another's. What a process could not announce it ends by itself
(`typing/service.py`), and is ahead by one until the next proposal. And a process knows nothing that was told before it
listened: who comes to it with no token learns of that when it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MOST_AHEAD: Final = 1_000
"""Milliseconds by which another process may be ahead. Tokens come from clients, and are not to move our clock far."""


class EphemeralClock:
    """One per process."""

    __slots__ = ("_current", "_now", "_observed")

    def __init__(self, now: Callable[[], int]) -> None:
        """`now` gives the wall clock in milliseconds."""
        self._now = now
        self._current = 0
        self._observed = 0

    @property
    def current(self) -> int:
        """The newest serial given out: everything fleeting known here is at or below it."""
        return self._current

    def propose(self) -> int:
        """What to send with news to all processes, for `apply`."""
        return max(self._now(), self._current + 1, self._observed + 1)

    def apply(self, proposed: int) -> int:
        """The serial of news that was heard: greater than every one before it, and the same everywhere."""
        self._current = max(self._current + 1, proposed)
        return self._current

    def next(self) -> int:
        """The serial of news that nobody else hears of."""
        return self.apply(self.propose())

    def observe(self, serial: int) -> None:
        """Take note of a serial in a token, so that news made here from now on is newer to its client.

        It moves no serial by itself: what has it may still be on its way here. One that is `MOST_AHEAD` of the wall
        clock was given out by nobody, and counts as if it were there.
        """
        if serial > self._observed:
            self._observed = max(self._observed, min(serial, self._now() + MOST_AHEAD))
