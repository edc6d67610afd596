# SPDX-License-Identifier: Apache-2.0
"""The two wires a client has: HTTP/1.1 on a connection that is kept, and a WebSocket (RFC 6455).

Both are blocking and small on purpose: a test needs to know exactly what it sent and what came back. Neither knows
anything of Matrix but where the token goes.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import struct
import time
from typing import Any
from urllib.parse import quote, urlencode

PATIENCE = 120.0
"""Seconds after which a server that says nothing has failed: longer than polls wait, on a machine that may stop."""

_IDLE = 10.0
"""Seconds after which a kept connection is not trusted to be open."""
_UNREAD = 40.0
"""Seconds after which a WebSocket that was not read is not: its server pings, and waits for answers so long."""

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


class Refused(Exception):
    """A Matrix error: `status` and the body's `errcode`."""

    def __init__(self, status: int, body: Any) -> None:
        self.status = status
        self.errcode: str = body.get("errcode", "") if isinstance(body, dict) else ""
        super().__init__(f"{status} {body}")


class Http:
    """One kept connection to the client API. Not for use by two threads."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._last = 0.0
        self.requests = 0

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        query: dict[str, str] | None = None,
    ) -> Any:
        """The JSON that a path below `/_matrix/client` answers with. Raises Refused for 4xx; 5xx is a failure."""
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        payload = None if body is None else json.dumps(body)
        target = f"/_matrix/client{path}" + (f"?{urlencode(query)}" if query else "")
        self.requests += 1
        if time.monotonic() - self._last > _IDLE:
            self._connection.close()  # the server may be about to
        self._connection.request(method, target, payload, headers)
        response = self._connection.getresponse()
        answer = json.loads(response.read())
        self._last = time.monotonic()
        assert response.status < 500, f"{method} {target} answered {response.status}: {answer}"
        if response.status >= 400:
            raise Refused(response.status, answer)
        return answer

    def close(self) -> None:
        """Give the connection up; the next call makes another."""
        self._connection.close()


def path(*parts: str) -> str:
    """`/v3/…` with each part escaped."""
    return "/v3/" + "/".join(quote(part, safe="") for part in parts)


class WebSocket:
    """A connection to `GET /_matrix/client/ws/r0` (subprotocol `m.json`): JSON objects out and in."""

    def __init__(self, port: int, query: dict[str, str]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._received = b""
        self._last = time.monotonic()
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET /_matrix/client/ws/r0?{urlencode(query)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: m.json\r\n\r\n"
        )
        self._socket.sendall(request.encode())
        while b"\r\n\r\n" not in self._received:
            self._read_more()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), f"no upgrade: {head!r} {self._received!r}"

    def receive(self) -> Any:
        """The next JSON object. Raises AssertionError if the server closes instead."""
        text = b""
        while True:
            final, opcode, payload = self._frame()
            if opcode == _PING:
                self._send(_PONG, payload)
            elif opcode == _CLOSE:
                raise AssertionError(f"the server closed: {payload!r}")
            elif opcode != _PONG:
                text += payload
                if final:
                    return json.loads(text)

    def send(self, message: object) -> None:
        """Send one JSON object."""
        self._send(_TEXT, json.dumps(message).encode())

    @property
    def is_stale(self) -> bool:
        """Whether nothing was read for so long that the server may have given it up."""
        return time.monotonic() - self._last > _UNREAD

    def close(self) -> None:
        """Drop the connection as a client that lost its network does: without a word."""
        self._socket.close()

    def _frame(self) -> tuple[bool, int, bytes]:
        first, second = self._take(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self._take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._take(8))
        assert not second & 0x80, "a server must not mask its frames"
        return bool(first & 0x80), first & 0x0F, self._take(length)

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            self._read_more()
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def _read_more(self) -> None:
        more = self._socket.recv(65536)
        assert more, "the server hung up"
        self._received += more
        self._last = time.monotonic()

    def _send(self, opcode: int, payload: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        else:
            assert length < 65536, "larger than any frame this client sends"
            head = struct.pack("!BBH", 0x80 | opcode, 0xFE, length)
        self._socket.sendall(head + mask + masked)
