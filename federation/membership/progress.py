# SPDX-License-Identifier: Apache-2.0
"""How far the joins under way are: told in the log and in figures, and to whoever has to wait for one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram
from twisted.internet.defer import Deferred

logger = logging.getLogger(__name__)

STAGES: Final = ("asking", "sending", "reading", "storing")

_UNDER_WAY = Gauge(
    "lares_federation_joins_under_way", "Joins of other servers' rooms, by how far they are", ["stage"]
)
_SECONDS = Histogram(
    "lares_federation_join_seconds",
    "Time from asking the first server to being in the room",
    buckets=(0.5, 1, 2, 5, 10, 20, 60, 120, 300),
)
_EVENTS = Counter("lares_federation_join_events", "Events stored that came with joins")
_ENDED = Counter("lares_federation_joins", "Joins of other servers' rooms that ended", ["outcome"])


class JoinProgress:
    """One join, from its first question to its end."""

    def __init__(self, room_id: str, clock: Callable[[], float]) -> None:
        """`clock`: seconds."""
        self.room_id = room_id
        self.stage = STAGES[0]
        self.stored = 0
        self.total = 0
        self._clock = clock
        self._begun = clock()
        self._waiting: list[Deferred[None]] = []
        _UNDER_WAY.labels(self.stage).inc()

    def enter(self, stage: str, detail: str) -> None:
        """The next thing is being done."""
        _UNDER_WAY.labels(self.stage).dec()
        self.stage = stage
        _UNDER_WAY.labels(stage).inc()
        logger.info("joining %s, %.1f s: %s %s", self.room_id, self._clock() - self._begun, stage, detail)

    def expect(self, total: int) -> None:
        """So many events are to be stored, if none was there before."""
        self.total = total
        self.stored = 0

    def store(self, done: int) -> None:
        """So many are."""
        _EVENTS.inc(done - self.stored)
        self.stored = done
        if done % 5000 == 0:
            logger.info("joining %s: stored %d of %d events", self.room_id, done, self.total)

    def end(self, outcome: str) -> None:
        """It is over, one way or another."""
        _UNDER_WAY.labels(self.stage).dec()
        _ENDED.labels(outcome).inc()
        seconds = self._clock() - self._begun
        if outcome == "joined":
            _SECONDS.observe(seconds)
        logger.info("joining %s ended after %.1f s: %s", self.room_id, seconds, outcome)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def ended(self) -> Deferred[None]:
        """Fires when it is over."""
        deferred: Deferred[None] = Deferred()
        self._waiting.append(deferred)
        return deferred
