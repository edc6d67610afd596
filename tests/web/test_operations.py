# SPDX-License-Identifier: Apache-2.0
"""`/health` and `/metrics`, and which listener serves what."""

from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry

from homeserver.config.sections import Listener
from homeserver.observability.metrics import render
from homeserver.web.operations import Operations
from tests.web.loopback import Loopback


def figures_of(registry: CollectorRegistry) -> Callable[[], Awaitable[bytes]]:
    async def figures() -> bytes:
        return render(registry)

    return figures


class Database:
    """Answers, until it does not."""

    def __init__(self) -> None:
        self.broken = False

    async def check(self) -> None:
        if self.broken:
            raise ConnectionError("the password is secret")


async def test_health_and_metrics() -> None:
    database, registry = Database(), CollectorRegistry()
    server = Loopback(Operations(figures_of(registry), database.check).routes())
    registry.register(server.metrics)
    well = await server.request("GET", "/health")
    figures = await server.request("GET", "/metrics")
    database.broken = True
    ill = await server.request("GET", "/health")
    await server.stop()
    assert (well.status, well.json) == (200, {"status": "ok"})
    assert (ill.status, ill.json) == (503, {"status": "unavailable"})
    assert figures.headers["content-type"].startswith("text/plain")
    assert b'lares_http_requests_total{method="GET",route="/health",status="200"} 1.0' in figures.raw


async def test_a_listener_serves_what_it_is_told() -> None:
    database = Database()
    listener = Listener(port=0, serves=("client",))
    server = Loopback(Operations(figures_of(CollectorRegistry()), database.check).routes(), listener=listener)
    assert (await server.request("GET", "/metrics")).status == 404
    assert (await server.request("GET", "/health")).status == 200
    await server.stop()
