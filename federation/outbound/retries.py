# SPDX-License-Identifier: Apache-2.0
"""When which server is due again: one heap and one timer, however many servers are away."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from homeserver.needs import Protocol

LONGEST_SLEEP = 3600.0
"""Seconds: a clock that was set right in between is noticed after that at the latest."""


class Scheduler(Protocol):
    """The reactor's part that is needed here."""

    def callLater(self, delay: float, fn: Callable[..., object], /, *args: object) -> Any: ...  # noqa: N802


class Retries:
    """Names and times in milliseconds since 1970; `due` is called with each name once when its time has come."""

    def __init__(self, *, scheduler: Scheduler, now: Callable[[], int], due: Callable[[str], None]) -> None:
        self._scheduler = scheduler
        self._now = now
        self._due = due
        self._heap: list[tuple[int, str]] = []
        self._at: dict[str, int] = {}
        self._call: Any = None
        self._call_at = 0

    def __len__(self) -> int:
        return len(self._at)

    def put(self, name: str, at: int) -> None:
        """Have a name come up then, and not at another time it was put for."""
        if self._at.get(name) == at:
            return
        self._at[name] = at
        heappush(self._heap, (at, name))
        if len(self._heap) > 2 * len(self._at) + 100:
            self._heap = sorted((at, name) for name, at in self._at.items())
        self._schedule()

    def forget(self, name: str) -> None:
        """It need not come up."""
        self._at.pop(name, None)

    def stop(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._heap.clear()
        self._at.clear()

    def _schedule(self) -> None:
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)  # put for another time since, or forgotten
        if not self._heap:
            return
        at = self._heap[0][0]
        if self._call is not None:
            if self._call_at <= at:
                return
            self._call.cancel()
        self._call_at = at
        delay = min(max(0.0, (at - self._now()) / 1000), LONGEST_SLEEP)
        self._call = self._scheduler.callLater(delay, self._wake)

    def _wake(self) -> None:
        self._call = None
        now = self._now()
        while self._heap and self._heap[0][0] <= now:
            at, name = heappop(self._heap)
            if self._at.get(name) == at:
                del self._at[name]
                self._due(name)
        self._schedule()
