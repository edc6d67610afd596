# SPDX-License-Identifier: Apache-2.0
"""When waits are over, for many at once.

A timer of the reactor for each of them is made and cancelled with every message; here they stand together in stretches
of an eighth of a second, and one timer looks at the stretches as they pass.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Final

from homeserver.needs import Protocol

_STRETCH: Final = 0.125
"""Seconds by which a wait may be longer than asked for."""


class Clock(Protocol):
    """Twisted's time; the reactor is one."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, callable: Any, *args: Any) -> Any: ...  # noqa: N802


class Expiring(Protocol):
    """Something whose time may be up."""

    def expire(self) -> object: ...


class Deadlines:
    """One per process. Leaves no timer behind once nobody waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stretches: dict[int, set[Expiring]] = {}
        self._count = 0
        self._timer: Any = None
        self._next = 0
        """The stretch that the timer is set for."""

    def add(self, waiting: Expiring, seconds: float) -> int:
        """Have it told when its time is up. Returns what `remove` must be given."""
        number = ceil((self._clock.seconds() + seconds) / _STRETCH)
        self._stretches.setdefault(number, set()).add(waiting)
        self._count += 1
        if self._timer is None or number < self._next:
            self._set(number)
        return number

    def remove(self, waiting: Expiring, number: int) -> None:
        """Its time does not matter any more; nothing happens if it was up."""
        stretch = self._stretches.get(number)
        if stretch is None or waiting not in stretch:
            return
        stretch.remove(waiting)
        self._count -= 1
        if not self._count:
            self._stretches.clear()
            self._timer.cancel()
            self._timer = None

    def _set(self, number: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = number
        self._timer = self._clock.callLater(max(0.0, number * _STRETCH - self._clock.seconds()), self._pass)

    def _pass(self) -> None:
        self._timer = None
        now = self._clock.seconds() / _STRETCH
        passed = sorted(number for number in self._stretches if number <= now or number == self._next)
        over = [waiting for number in passed for waiting in self._stretches.pop(number)]
        for number in [number for number, stretch in self._stretches.items() if not stretch]:
            del self._stretches[number]
        self._count -= len(over)
        if self._stretches:
            self._set(min(self._stretches))
        for waiting in over:
            waiting.expire()
