# SPDX-License-Identifier: Apache-2.0
"""A simulation of the stream's commits: workers that gather, and one row that locks them out of each other's way.

Discrete events. What is to be written arrives at random at some worker. A worker has one commit under way at a time,
which carries all it had gathered when the one before was through, up to a bound; commits of several workers wait for
the row in their order, and whoever has it keeps it until the log is durable (locks are given back after the flush, and
after a synchronous standby's answer). Postgres' own group commit does not help: only one of these transactions is ever
at its end.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Final

from scripts.benchmarks.measuring import percentile

MOST_POSITIONS: Final = 1000
"""Of one commit: `homeserver.stream.committer.MAX_POSITIONS`."""
ARRIVALS: Final = 20_000


@dataclass(frozen=True, slots=True)
class CommitTime:
    """Seconds that a commit holds the row: `fixed`, and `each` per position."""

    fixed: float
    each: float

    def of(self, positions: int) -> float:
        return self.fixed + self.each * positions

    @property
    def most(self) -> float:
        """Positions per second that no arrangement of workers exceeds."""
        return MOST_POSITIONS / self.of(MOST_POSITIONS)


@dataclass(frozen=True, slots=True)
class Commits:
    """What came of it. Latencies in seconds, in order, from arrival until the commit stands."""

    rate: float
    """Positions per second that were committed."""
    commits: float
    """Per second."""
    use: float
    """Share of the time that the row was locked."""
    latencies: list[float]

    def latency(self, percent: float) -> float:
        """A percentile of the latencies, in seconds."""
        return percentile(self.latencies, percent)


def simulate(
    rate: float, workers: int, time: CommitTime, *, arrivals: int = ARRIVALS, seed: int = 1
) -> Commits:
    """Let so many positions arrive at that rate per second, in a Poisson stream, at workers drawn alike."""
    if rate <= 0:
        return Commits(0.0, 0.0, 0.0, [time.of(1)])
    draw = random.Random(seed)
    line = _Line(workers)
    latencies: list[float] = []
    now = busy = 0.0
    commits = arrived = 0
    coming = draw.expovariate(rate)
    while arrived < arrivals or line.waiting:
        if not line.waiting:
            now = max(now, coming)
        while arrived < arrivals and coming <= now:
            line.arrive(draw.randrange(workers), coming)
            arrived, coming = arrived + 1, coming + draw.expovariate(rate)
        worker, batch = line.waiting.popleft()
        taken = time.of(len(batch))
        now, busy, commits = now + taken, busy + taken, commits + 1
        while arrived < arrivals and coming <= now:
            line.arrive(draw.randrange(workers), coming)
            arrived, coming = arrived + 1, coming + draw.expovariate(rate)
        latencies += [now - moment for moment in batch]
        line.committed(worker)
    latencies.sort()
    return Commits(arrivals / now, commits / now, busy / now, latencies)


class _Line:
    """Who waits for the row with what, and what gathers behind a worker's commit under way."""

    def __init__(self, workers: int) -> None:
        self.waiting: deque[tuple[int, list[float]]] = deque()
        self._gathered: list[list[float] | None] = [None] * workers
        """Per worker; None while it has no commit under way."""

    def arrive(self, worker: int, moment: float) -> None:
        gathered = self._gathered[worker]
        if gathered is None:
            self._gathered[worker] = []
            self.waiting.append((worker, [moment]))
        else:
            gathered.append(moment)

    def committed(self, worker: int) -> None:
        gathered = self._gathered[worker]
        if not gathered:
            self._gathered[worker] = None
            return
        self.waiting.append((worker, gathered[:MOST_POSITIONS]))
        self._gathered[worker] = gathered[MOST_POSITIONS:]
