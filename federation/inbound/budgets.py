# SPDX-License-Identifier: Apache-2.0
"""What fetching for one event, and for one server's events, may cost (CVE-2024-31208 of another server).

Owns the counting. One `Budget` goes along with everything that is done for one event; `OriginCosts` remembers how much
was done lately for each server that sent such events, in all processes of a machine that have a memory together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from homeserver.web.rate_limits import Memory, OwnMemory

REQUESTS: Final = 400
EVENTS: Final = 100_000
"""Enough for the whole state and authorization chain of a large room in one answer."""
BYTES: Final = 64 << 20
SECONDS: Final = 180.0

MOST_ORIGINS: Final = 10_000
_REQUEST_COST: Final = 10.0


class OverBudget(Exception):
    """It would cost more than it may."""


class Budget:
    """Spends down; raises OverBudget from then on. `clock` gives seconds."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        requests: int = REQUESTS,
        events: int = EVENTS,
        size: int = BYTES,
        seconds: float = SECONDS,
    ) -> None:
        self._clock = clock
        self._requests, self._events, self._size = requests, events, size
        self._deadline = clock() + seconds
        self.requests = 0
        self.events = 0
        self.size = 0

    def spend(self, *, requests: int = 0, events: int = 0, size: int = 0) -> None:
        """Count what is about to be done, or what has just come in."""
        self.requests += requests
        self.events += events
        self.size += size
        if self.requests > self._requests:
            raise OverBudget(f"more than {self._requests} requests")
        if self.events > self._events:
            raise OverBudget(f"more than {self._events} events")
        if self.size > self._size:
            raise OverBudget(f"more than {self._size} bytes")
        if self._clock() > self._deadline:
            raise OverBudget("no time left")

    @property
    def spent(self) -> float:
        """In the units of `OriginCosts`: events looked at, a request counting as ten."""
        return self.events + _REQUEST_COST * self.requests


class OriginCosts:
    """Debts by server, paid off with time: a server in debt beyond `allowed` waits, the others do not."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        memory: Memory | None = None,
        allowed: float = 60_000.0,
        per_second: float = 100.0,
    ) -> None:
        """`clock` gives seconds, of `time.monotonic` where other processes use the same `memory`: it has when each debt
        will be paid. Without it they are remembered here."""
        self._clock = clock
        self._memory: Memory = OwnMemory(MOST_ORIGINS) if memory is None else memory
        self._allowed = allowed
        self._per_second = per_second

    def charge(self, origin: str, cost: float) -> None:
        """Add what was spent because of the server."""
        now = self._clock()
        paid_at = max(now, self._memory.full_at(origin)) + cost / self._per_second
        self._memory.keep(origin, paid_at, now)

    def debt(self, origin: str) -> float:
        """What the server has still to pay."""
        return max(0.0, self._memory.full_at(origin) - self._clock()) * self._per_second

    def wait(self, origin: str) -> float:
        """Seconds until the server's events are worked on again; 0: now."""
        return max(0.0, (self.debt(origin) - self._allowed) / self._per_second)
