# SPDX-License-Identifier: Apache-2.0
"""What clients say to a counted server: requests that are written now and answered later, and WebSockets.

Owns the wire only, blocking, since nothing else is to happen meanwhile. Preparations, which are not counted, go
through the benchmark's client on a loop of their own (`Backstage`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from scripts.benchmarks.client import Client, parse_response
from tests.costs.bench import Phase

T = TypeVar("T")
_PATIENCE = 180.0
_LONG_PATIENCE = 300.0
"""For preparations, which are hundreds of requests on a machine that may have other things to do."""
_serial = itertools.count()


class Line:
    """A kept connection of one client."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._socket = socket.create_connection((client.host, client.port), timeout=_PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.body = b""
        """Of the last answer."""

    def say(self, method: str, path: str, body: object = None) -> None:
        """Write a request."""
        payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: costs.localhost\r\nAuthorization: Bearer {self.client.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + payload)

    def hear(self) -> int:
        """Wait for the answer, which must be 200; its bytes."""
        buffer = bytearray()
        while (parsed := parse_response(buffer)) is None:
            data = self._socket.recv(1 << 20)
            assert data, "the server hung up"
            buffer += data
        status, self.body = parsed
        assert status == 200, f"{status} {self.body[:500]!r}"
        return len(buffer)

    def close(self) -> None:
        self._socket.close()


class Socket:
    """A client's WebSocket, of which whole messages are counted until one holds what is waited for."""

    def __init__(self, client: Client, path: str) -> None:
        self._socket = socket.create_connection((client.host, client.port), timeout=_PATIENCE)
        head = (
            f"GET {path} HTTP/1.1\r\nHost: costs.localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: m.json\r\n\r\n"
        )
        self._socket.sendall(head.encode())
        self._buffer = bytearray()
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self._socket.recv(1)
        assert self._buffer.startswith(b"HTTP/1.1 101"), bytes(self._buffer)
        self._buffer.clear()

    def hear(self, text: bytes) -> int:
        """Wait for a message that holds the text; the bytes of all that came."""
        heard = 0
        while True:
            message, length = self._message()
            heard += length
            if text in message:
                return heard

    def close(self) -> None:
        self._socket.close()

    def _message(self) -> tuple[bytes, int]:
        first, second = self._exactly(2)
        assert first & 0x80, "messages of this size come in one frame"
        length, head = second & 0x7F, 2
        if length == 126:
            length, head = struct.unpack("!H", self._exactly(2))[0], 4
        elif length == 127:
            length, head = struct.unpack("!Q", self._exactly(8))[0], 10
        return self._exactly(length), head + length

    def _exactly(self, length: int) -> bytes:
        while len(self._buffer) < length:
            data = self._socket.recv(1 << 16)
            assert data, "the server hung up"
            self._buffer += data
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken


class Backstage:
    """An event loop in a thread, for what prepares an operation and for the other server of a federation."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="backstage", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_LONG_PATIENCE)

    def close(self) -> None:
        """End the loop with whatever runs on it."""
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result(_PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(3):  # connections that were aborted are closed a turn or two later
            await asyncio.sleep(0)

    def phase(self, make: Callable[[], Coroutine[Any, Any, int]]) -> Phase:
        """A phase in which a coroutine writes a request, at once, and waits for the answer, whose bytes it gives."""
        under_way: list[Any] = []

        def say() -> None:
            under_way.append(asyncio.run_coroutine_threadsafe(make(), self._loop))
            for _ in range(3):  # the first step of the coroutine is done after the first of these
                self.run(asyncio.sleep(0))

        def hear() -> int:
            heard: int = under_way.pop().result(_PATIENCE)
            return heard

        return Phase(say, hear)


def serial() -> int:
    """A number never given before."""
    return next(_serial)


def together(lines: Sequence[Line], requests: Sequence[tuple[str, str, object]]) -> Phase:
    """A phase of one request on each line."""

    def say() -> None:
        for line, request in zip(lines, requests, strict=True):
            line.say(*request)

    return Phase(say, lambda: sum(line.hear() for line in lines))


def one(line: Line, method: str, path: str, body: object = None) -> Phase:
    """A phase of one request."""
    return together([line], [(method, path, body)])
