# SPDX-License-Identifier: Apache-2.0
"""Connections on their way from HTTP to WebSocket."""

from collections.abc import Iterator
from typing import Any

import pytest
from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint

from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import ROOT, Auth, Route
from homeserver.web.upgrades import upgrade_to
from tests.reactor import reactor, run
from tests.web.loopback import Connection, Loopback, request_bytes

UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
#: "Hello", masked, and its echo (RFC 6455 section 5.7).
HELLO = bytes.fromhex("818537fa213d7f9f4d5158")
HELLO_BACK = b"\x81\x05Hello"


class Echo(WebSocketServerProtocol):
    """Sends back what comes."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803
        self.sendMessage(payload, isBinary)  # type: ignore[no-untyped-call]


def echo_factory() -> Any:
    factory: Any = WebSocketServerFactory()  # type: ignore[no-untyped-call]
    factory.protocol = Echo
    factory.openHandshakeTimeout = 0
    return factory


async def socket(_request: MatrixRequest) -> Reply:
    return upgrade_to(echo_factory())


async def here(request: MatrixRequest) -> Reply:
    return {"secure": request.secure}


ROUTES = (
    Route("GET", "/here", here, under=ROOT, auth=Auth.NONE),
    Route("GET", "/socket", socket, under=ROOT),
)


@pytest.fixture
def server() -> Iterator[Loopback]:
    loopback = Loopback(ROUTES)
    yield loopback
    run(loopback.stop())


async def check_echo(connection: Connection) -> None:
    """Upgrade, with the first frame right behind the request, then send another."""
    connection.send(request_bytes("GET", "/socket", headers=UPGRADE, token="alice") + HELLO)
    answer = await connection.response()
    assert (answer.status, answer.headers["sec-websocket-accept"]) == (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    await connection.until(lambda: connection.received == HELLO_BACK)
    connection.send(HELLO)
    await connection.until(lambda: connection.received == HELLO_BACK * 2)


async def test_a_connection_becomes_a_websocket(server: Loopback) -> None:
    connection = await server.connect()
    await check_echo(connection)
    assert "status=101" in server.lines.getvalue()


async def test_a_websocket_ends_with_one_half_of_it(server: Loopback) -> None:
    connection = await server.connect()
    await check_echo(connection)
    connection.end_sending()
    await connection.end()
    assert not server.open.site.connections


async def test_a_websocket_on_a_connection_that_was_used(server: Loopback) -> None:
    connection = await server.connect()
    assert (await connection.request("GET", "/here")).status == 200
    await check_echo(connection)


async def test_no_websocket_for_who_speaks_an_older_http(server: Loopback) -> None:
    connection = await server.connect()
    asked = request_bytes("GET", "/socket", headers=UPGRADE, token="alice")
    connection.send(asked.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (await connection.response()).status == 426
    await connection.end()


class Hello(WebSocketClientProtocol):
    """Says a long hello and keeps the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: Deferred[bytes] = Deferred()
        self.gone: Deferred[None] = Deferred()

    def onOpen(self) -> None:
        self.sendMessage(b"hello " * 20_000)  # type: ignore[no-untyped-call]

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803
        self.heard.callback(payload)
        self.sendClose()

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:  # noqa: N803
        self.gone.callback(None)


async def test_another_implementations_client(server: Loopback) -> None:
    factory: Any = WebSocketClientFactory(  # type: ignore[no-untyped-call]
        f"ws://127.0.0.1:{server.port}/socket", headers={"Authorization": "Bearer alice"}
    )
    factory.protocol = Hello
    factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
    client: Any = await TCP4ClientEndpoint(reactor, "127.0.0.1", server.port).connect(factory)
    assert await client.heard == b"hello " * 20_000
    await client.gone


@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        (None, UPGRADE, 401),
        ("wrong", UPGRADE, 401),
        ("alice", {}, 426),
        ("alice", UPGRADE | {"Connection": "close"}, 426),
        ("alice", UPGRADE | {"Sec-WebSocket-Version": "8"}, 426),
        ("alice", UPGRADE | {"Sec-WebSocket-Key": "short"}, 426),
    ],
)
async def test_a_socket_is_refused_in_plain_http(
    server: Loopback, token: str | None, headers: dict[str, str], status: int
) -> None:
    answer = await server.request("GET", "/socket", headers=headers, token=token)
    assert answer.status == status
    assert answer.errcode
    assert "access-control-allow-origin" in answer.headers
