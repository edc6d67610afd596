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

import re
from typing import Any, Final

from homeserver.needs import Protocol
from homeserver.web.heads import Fields
from homeserver.web.replies import Upgrade

WEBSOCKET_VERSION: Final = "13"
#: Sixteen bytes in base64.
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{22}==")


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


def handshake_problem(method: str, fields: Fields, *, is_newest: bool) -> str | None:
    """What keeps a request from becoming a WebSocket (RFC 6455 section 4.2.1), or None.

    Looked at here too, so that the refusal has the form of all others. `is_newest`: whether it came as HTTP/1.1; in 1.0
    nothing can be upgraded (RFC 9110 section 7.8).
    """
    if not is_newest or method != "GET" or b"websocket" not in fields.tokens(b"upgrade"):
        return "This endpoint speaks WebSocket only"
    if b"upgrade" not in fields.tokens(b"connection"):
        return "The Connection header does not name Upgrade"
    if fields.last(b"sec-websocket-version") != WEBSOCKET_VERSION.encode():
        return f"Only version {WEBSOCKET_VERSION} of WebSocket is spoken"
    key = fields.all(b"sec-websocket-key")
    if len(key) != 1 or _KEY.fullmatch(key[0].strip()) is None:
        return "Sec-WebSocket-Key is missing or malformed"
    return None


def request_head(method: str, target: bytes, fields: Fields) -> bytes:
    """The request as it stood on the wire, but for the order and case of its headers."""
    lines = [f"{method} ".encode("latin-1") + target + b" HTTP/1.1"]
    lines.extend(name + b": " + value for name, value in fields)
    return b"\r\n".join(lines) + b"\r\n\r\n"
