# SPDX-License-Identifier: Apache-2.0
"""Figures of the disk for Prometheus: bytes and rows of the database by what they are for.

They are read again every ten minutes, so that nobody who looks at `/metrics` waits for them. By each process of many:
one that was to do it for all might have ended.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from homeserver.needs import Protocol

logger = logging.getLogger(__name__)

EVERY: Final = 600.0
"""Seconds."""


class Part(Protocol):
    """What the figures show of one purpose: bytes of tables and indexes, and an estimate of rows."""

    @property
    def name(self) -> str: ...
    @property
    def tables(self) -> int: ...
    @property
    def indexes(self) -> int: ...
    @property
    def rows(self) -> int: ...


class StorageFigures(Collector):
    """`read` gives what is shown until the next time."""

    def __init__(self, reactor: Any, read: Callable[[], Awaitable[Sequence[Part]]]) -> None:
        self._read = read
        self._parts: Sequence[Part] = ()
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self.refresh()))
        self._loop.clock = reactor

    def start(self) -> None:
        """Read now and from time to time."""
        self._loop.start(EVERY)

    def stop(self) -> None:
        """Read no more."""
        if self._loop.running:
            self._loop.stop()

    async def refresh(self) -> None:
        """Read. What was shown before stays where that fails."""
        try:
            self._parts = await self._read()
        except Exception as error:
            logger.warning("the sizes of the database could not be read", exc_info=error)

    def collect(self) -> Iterator[Metric]:
        """The metric families."""
        size = GaugeMetricFamily(
            "lares_storage_bytes", "Bytes of the database by what they are for.", labels=("part", "kind")
        )
        rows = GaugeMetricFamily(
            "lares_storage_rows", "Rows of the database by what they are for, estimated.", labels=("part",)
        )
        for part in self._parts:
            size.add_metric((part.name, "tables"), part.tables)
            size.add_metric((part.name, "indexes"), part.indexes)
            rows.add_metric((part.name,), part.rows)
        yield size
        yield rows
