# SPDX-License-Identifier: Apache-2.0
"""Figures of the requests this server sends to others: how many of which kind, how they ended, how long they took."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class ClientMetrics(Collector):
    """Counts by endpoint and outcome: `ok`, `refused` (4xx), `broken` (5xx), `bad`, `unreachable`, `backing_off`.

    Not by destination: there are as many as strangers like.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._seconds: dict[str, float] = {}

    def observe(self, endpoint: str, outcome: str, seconds: float) -> None:
        """A request ended."""
        key = (endpoint, outcome)
        self._counts[key] = self._counts.get(key, 0) + 1
        self._seconds[endpoint] = self._seconds.get(endpoint, 0.0) + seconds

    def collect(self) -> Iterator[Metric]:
        """The metric families."""
        requests = CounterMetricFamily(
            "lares_federation_requests", "Requests sent to other servers", labels=("endpoint", "outcome")
        )
        for (endpoint, outcome), count in self._counts.items():
            requests.add_metric((endpoint, outcome), count)
        yield requests
        seconds = CounterMetricFamily(
            "lares_federation_request_seconds", "Time spent waiting for other servers", labels=("endpoint",)
        )
        for endpoint, total in self._seconds.items():
            seconds.add_metric((endpoint,), total)
        yield seconds
