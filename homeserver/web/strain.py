# SPDX-License-Identifier: Apache-2.0
"""Whether this process has more to do than it can: measured, not guessed, and said only of what lasts.

Owns the measuring. Each sign is something that many meet at the moment: how late the reactor is, how old the oldest
statement that waits for a database connection, how long the queue of the busiest room. What counts is the least of the
last few looks: a burst, a large response, a collection of garbage pass within one or two, and only what does not pass
is an overload. What is done about it is `admission`'s.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from homeserver.web.clock import Clock

LOOK: Final = 0.05
"""Seconds between looks while there is something to see."""
IDLE_LOOK: Final = 0.25
"""The same while nothing is late."""
LOOKS: Final = 4
"""In a row, each of which must have found the process late."""
RELAXED: Final = 10
"""Looks without a sign after which the strain is over."""
LATE: Final = 0.05
"""Seconds by which the reactor may come late to a look. A request waits for several of its turns."""


class Sign(Struct, frozen=True):
    """Something that grows with the load, and from which value on nobody should meet it."""

    name: str
    read: Callable[[], float]
    bearable: float


class Strain:
    """Looks from `start` to `stop`, and calls `looked(strained)` after each look."""

    def __init__(self, clock: Clock, signs: Sequence[Sign], looked: Callable[[bool], None]) -> None:
        self._clock = clock
        self._signs = tuple(signs)
        self._looked = looked
        self._last: deque[float] = deque((0.0,) * LOOKS, LOOKS)
        self._relaxed = 0
        self._due = 0.0
        self._call: Any = None
        self.strained = False
        self.late = 0.0
        """Seconds by which the last look came late."""

    def start(self) -> None:
        """Begin to look."""
        self._again(IDLE_LOOK)

    def stop(self) -> None:
        """Look no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def figures(self) -> Mapping[str, float]:
        """Each sign at this moment, as a part of what is bearable."""
        return {
            "reactor": self.late / LATE,
            **{sign.name: sign.read() / sign.bearable for sign in self._signs},
        }

    def _again(self, pause: float) -> None:
        self._due = self._clock.seconds() + pause
        self._call = self._clock.callLater(pause, self._look)

    def _look(self) -> None:
        self.late = max(0.0, self._clock.seconds() - self._due)
        worst = self.late / LATE
        for sign in self._signs:
            worst = max(worst, sign.read() / sign.bearable)
        self._last.append(worst)
        if min(self._last) >= 1.0:
            self.strained, self._relaxed = True, 0
        elif self.strained:
            self._relaxed = self._relaxed + 1 if worst < 0.5 else 0
            self.strained = self._relaxed < RELAXED
        try:
            self._looked(self.strained)
        finally:  # or nobody would find that the strain is over
            self._again(LOOK if self.strained or worst >= 0.5 else IDLE_LOOK)
