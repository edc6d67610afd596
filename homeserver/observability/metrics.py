# SPDX-License-Identifier: Apache-2.0
"""Figures for Prometheus: the requests' counts and latencies, and all figures as text.

Owns the HTTP figures; other parts register theirs with the registry, which is prometheus_client's. Plain integers are
counted on the reactor thread and become metric families when somebody looks; prometheus_client's own histograms take a
lock and walk their buckets on each observation.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds; a last bucket without bound follows."""
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def render(registry: CollectorRegistry) -> bytes:
    """Everything registered, in the text format of Prometheus."""
    return generate_latest(registry)


class HttpMetrics(Collector):
    """Requests by route template, method and status, with their latency by route and method."""

    def __init__(self) -> None:
        self.in_flight = 0
        """Handlers that are running."""
        self._answers: dict[tuple[str, str, int], _Answers] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered. Made-up methods count as one, so that nobody can fill the table."""
        answers = self._answers.get((route, method, status))
        if answers is None:
            if method not in _METHODS:
                method = "other"
            answers = self._answers.setdefault((route, method, status), _Answers())
        answers.buckets[bisect_left(BUCKETS, seconds)] += 1
        answers.seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """The metric families of this moment."""
        requests = CounterMetricFamily(
            "lares_http_requests", "Requests answered.", labels=("route", "method", "status")
        )
        together: dict[tuple[str, str], _Answers] = {}
        for (route, method, status), answers in sorted(self._answers.items()):
            requests.add_metric((route, method, str(status)), sum(answers.buckets))
            together.setdefault((route, method), _Answers()).add(answers)
        yield requests
        latency = HistogramMetricFamily(
            "lares_http_request_seconds",
            "From a request's headers to its answer.",
            labels=("route", "method"),
        )
        for key, answers in together.items():
            reached, running = [], 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), answers.buckets, strict=True):
                running += count
                reached.append((bound, running))
            latency.add_metric(key, reached, answers.seconds)
        yield latency
        yield GaugeMetricFamily("lares_http_in_flight", "Requests being answered.", value=self.in_flight)


class _Answers:
    """Of one route, method and status."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def add(self, other: "_Answers") -> None:
        """Those of another status."""
        self.buckets = [mine + more for mine, more in zip(self.buckets, other.buckets, strict=True)]
        self.seconds += other.seconds
