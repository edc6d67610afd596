# SPDX-License-Identifier: Apache-2.0
"""`/metrics` and `/health`: for those who run the server.

Owns the two endpoints. What is counted is registered elsewhere; what health means besides answering is a check that is
given.
"""

from collections.abc import Awaitable, Callable

from homeserver.observability import metrics
from homeserver.web.replies import Reply, Response, json_response
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Auth, Route

NO_STORE = {"Cache-Control": "no-store"}


class Operations:
    """What is asked is given: see `__init__`."""

    def __init__(
        self,
        figures: Callable[[], Awaitable[bytes]],
        check: Callable[[], Awaitable[object]],
        replaced: Callable[[], bool] = lambda: False,
    ) -> None:
        """`figures` gives those of the server, in Prometheus' text format. `check` raises where the server cannot do
        its work, above all where the database does not answer. `replaced`: whether a process that stops is followed
        by another, so that the server does not."""
        self._figures = figures
        self._check = check
        self._replaced = replaced

    def routes(self) -> tuple[Route, ...]:
        """`/health` is on every listener; `/metrics` where `metrics` is served."""
        return (
            Route(
                "GET",
                "/metrics",
                self.metrics,
                under=ROOT,
                auth=Auth.NONE,
                limit="discovery",
                resource="metrics",
            ),
            Route(
                "GET",
                "/health",
                self.health,
                under=ROOT,
                auth=Auth.NONE,
                limit="discovery",
                resource="health",
            ),
        )

    async def metrics(self, _request: MatrixRequest) -> Reply:
        """`GET /metrics`, in Prometheus' text format."""
        return Response(200, await self._figures(), {"Content-Type": metrics.CONTENT_TYPE, **NO_STORE})

    async def health(self, request: MatrixRequest) -> Reply:
        """`GET /health`: 200 `{"status": "ok"}`, or 503 where the check fails or the server is stopping."""
        if request.shutting_down.fired and not self._replaced():
            return json_response(503, {"status": "stopping"})
        try:
            await self._check()
        except Exception:  # whatever is wrong, the answer is the same; who checks learns no more
            return json_response(503, {"status": "unavailable"})
        return {"status": "ok"}
