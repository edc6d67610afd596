# SPDX-License-Identifier: Apache-2.0
"""Counts and latencies per operation name, cheap enough for the hot path, in the form Prometheus reads.

prometheus_client's own histogram takes a lock and walks its buckets in Python on each observation (≈ 3 µs).
Everything here happens on the reactor thread, so plain integers do; they become metric families only when
somebody looks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds; a last bucket without bound follows."""

Kind = Literal["statement", "transaction"]


class Timing:
    """The record of one name: successes by latency (waiting for a connection included), and failures."""

    __slots__ = ("buckets", "errors", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.total = 0.0
        self.errors = 0

    def observe(self, seconds: float) -> None:
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    @property
    def count(self) -> int:
        return sum(self.buckets)


class DatabaseMetrics(Collector):
    """All records of one pool. `gauges` gives the pool's figures of the moment, by name."""

    def __init__(self, gauges: Callable[[], dict[str, int]]) -> None:
        self._gauges = gauges
        self.statements: dict[str, Timing] = {}
        self.transactions: dict[str, Timing] = {}
        self.retries = 0
        self.connections_lost = 0

    def statement(self, name: str) -> Timing:
        timing = self.statements.get(name)
        if timing is None:
            timing = self.statements[name] = Timing()
        return timing

    def transaction(self, name: str) -> Timing:
        timing = self.transactions.get(name)
        if timing is None:
            timing = self.transactions[name] = Timing()
        return timing

    def collect(self) -> Iterator[Metric]:
        yield from self._timings("statement", self.statements)
        yield from self._timings("transaction", self.transactions)
        yield CounterMetricFamily(
            "lares_database_transaction_retries", "Transactions tried again", value=self.retries
        )
        yield CounterMetricFamily(
            "lares_database_connections_lost", "Connections that ended unasked", value=self.connections_lost
        )
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(
                f"lares_database_pool_{name}", f"The pool's {name.replace('_', ' ')}", value=value
            )

    @staticmethod
    def _timings(kind: Kind, timings: dict[str, Timing]) -> Iterator[Metric]:
        seconds = HistogramMetricFamily(
            f"lares_database_{kind}_seconds", f"Latency of each {kind}, waiting included", labels=["name"]
        )
        errors = CounterMetricFamily(
            f"lares_database_{kind}_errors", f"Failures of each {kind}", labels=["name"]
        )
        for name, timing in timings.items():
            running = 0
            cumulative: list[tuple[str, float]] = []
            for bound, number in zip((*map(str, BUCKETS), "+Inf"), timing.buckets, strict=True):
                running += number
                cumulative.append((bound, running))
            seconds.add_metric([name], cumulative, timing.total)
            errors.add_metric([name], timing.errors)
        yield seconds
        yield errors
