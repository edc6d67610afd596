# SPDX-License-Identifier: Apache-2.0
"""Figures of outgoing requests: how many for which purpose with which outcome, and how long they took.

Owns the counters, plain integers until somebody looks. Purposes are words of the callers' code, outcomes those of
`errors` or the class of the status; nothing a remote server says becomes a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class OutgoingMetrics(Collector):
    """Counts by purpose and outcome. `connections` gives the figures of the pool."""

    def __init__(self, connections: Callable[[], Mapping[str, int]]) -> None:
        self._connections = connections
        self._requests: dict[tuple[str, str], int] = {}
        self._seconds: dict[str, float] = {}

    def observe(self, purpose: str, outcome: str, seconds: float) -> None:
        """A request came to its end."""
        key = (purpose, outcome)
        self._requests[key] = self._requests.get(key, 0) + 1
        self._seconds[purpose] = self._seconds.get(purpose, 0.0) + seconds

    def count(self, purpose: str, outcome: str) -> int:
        """How often that happened."""
        return self._requests.get((purpose, outcome), 0)

    def collect(self) -> Iterator[Metric]:
        """The metric families of this moment."""
        requests = CounterMetricFamily(
            "lares_outgoing_requests", "Requests of this server to others.", labels=("purpose", "outcome")
        )
        for (purpose, outcome), count in sorted(self._requests.items()):
            requests.add_metric((purpose, outcome), count)
        yield requests
        seconds = CounterMetricFamily(
            "lares_outgoing_seconds", "Time requests of this server to others took.", labels=("purpose",)
        )
        for purpose, total in sorted(self._seconds.items()):
            seconds.add_metric((purpose,), total)
        yield seconds
        connections = GaugeMetricFamily(
            "lares_outgoing_connections", "Connections to other machines.", labels=("state",)
        )
        for state, number in self._connections().items():
            connections.add_metric((state,), number)
        yield connections
