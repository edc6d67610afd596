# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 (Twisted's names)
"""Leaving HTTP for WebSocket on the same port.

Owns recognizing the request and giving it back as bytes, since the WebSocket protocol parses its handshake itself. What
a route does:

    async def stream(self, request: MatrixRequest) -> Reply:
        ...                                # refuse as any endpoint: 401 JSON comes before the handshake
        return upgrade_to(self._factory)   # an autobahn WebSocketServerFactory

or `Upgrade(build)` with a protocol of its own making. The connection then belongs to that protocol; it should subscribe
to `request.shutting_down`, as its end is not awaited longer than that of a request.
"""

from typing import Any, Protocol

from twisted.web.http_headers import Headers

from homeserver.web.replies import Upgrade


class ProtocolFactory(Protocol):
    """What `upgrade_to` needs of a factory."""

    def buildProtocol(self, addr: Any) -> Any: ...


def upgrade_to(factory: ProtocolFactory) -> Upgrade:
    """Hand the connection to a protocol the factory builds."""

    def build(peer: Any) -> Any:
        protocol = factory.buildProtocol(peer)
        assert protocol is not None, "the factory takes no connections"
        return protocol

    return Upgrade(build)


def is_websocket(headers: Headers) -> bool:
    """Whether the request asks to become a WebSocket (RFC 6455 section 4.2.1)."""
    return any(
        token.strip().lower() == b"websocket"
        for value in headers.getRawHeaders(b"Upgrade", ())
        for token in value.split(b",")
    )


def request_head(method: str, target: bytes, headers: Headers) -> bytes:
    """The request as it stood on the wire, but for the order and case of its headers."""
    lines = [f"{method} ".encode("latin-1") + target + b" HTTP/1.1"]
    lines.extend(name + b": " + value for name, values in headers.getAllRawHeaders() for value in values)
    return b"\r\n".join(lines) + b"\r\n\r\n"
