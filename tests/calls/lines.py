# SPDX-License-Identifier: Apache-2.0
"""How a test's client talks with its homeserver: `/sync` and `PUT …/send`, or everything over one WebSocket.

Owns the two transports for asyncio; what is said over them is `phone`'s. The events of a room come in the order the
server gave them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import itertools
import json
import os
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlencode

PATIENCE = 150.0
Event = Mapping[str, Any]
FILTER = json.dumps({"room": {"timeline": {"limit": 100}}})
"""However late a test comes to look, no event is left out."""
_transactions = itertools.count(1)


class Line(Protocol):
    """One device's connection."""

    user_id: str

    async def send(self, room_id: str, event_type: str, content: Mapping[str, Any]) -> None: ...

    async def heard(self) -> tuple[str, Event]:
        """The next event of a timeline, with its room."""

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """Any request below `/_matrix/client/v3/`."""


class LongPollLine:
    """By HTTP alone."""

    def __init__(self, port: int, user_id: str, token: str) -> None:
        self._port = port
        self._token = token
        self.user_id = user_id
        self._heard: asyncio.Queue[tuple[str, Event]] = asyncio.Queue()
        self.since: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """One request; its JSON. Anything but 200 fails the test."""
        return await asyncio.to_thread(self._request, method, path, body)

    def _request(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request(
                method,
                f"/_matrix/client/v3/{path}",
                None if body is None else json.dumps(body),
                {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            )
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        assert response.status == 200, f"{method} {path}: {response.status} {answer}"
        return answer

    async def send(self, room_id: str, event_type: str, content: Mapping[str, Any]) -> None:
        path = f"rooms/{quote(room_id)}/send/{event_type}/t{next(_transactions)}"
        await self.call("PUT", path, content)

    async def heard(self) -> tuple[str, Event]:
        return await asyncio.wait_for(self._heard.get(), PATIENCE)

    async def mark(self) -> None:
        """Hear what happens from now on, once it is opened."""
        self.since = self.since or (await self.call("GET", "sync"))["next_batch"]

    async def open(self) -> None:
        """Listen, from the mark on or else from now on."""
        await self.mark()
        self._task = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        while True:
            query = urlencode({"since": self.since, "timeout": 2000, "filter": FILTER})
            self._take(await self.call("GET", f"sync?{query}"))

    def _take(self, update: Mapping[str, Any]) -> None:
        self.since = update["next_batch"]
        for room_id, room in update.get("rooms", {}).get("join", {}).items():
            for event in room.get("timeline", {}).get("events", ()):
                self._heard.put_nowait((room_id, event))

    async def close(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class WebSocketLine(LongPollLine):
    """By our WebSocket (docs/websocket.md): what is sent goes over it, too."""

    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    async def open(self) -> None:
        await self.mark()
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
        key = base64.b64encode(os.urandom(16)).decode()
        self._writer.write(
            (
                f"GET /_matrix/client/ws/r0?{urlencode({'since': self.since, 'filter': FILTER})} HTTP/1.1\r\n"
                f"Host: 127.0.0.1\r\nAuthorization: Bearer {self._token}\r\nConnection: Upgrade\r\n"
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: m.json\r\n"
                f"Sec-WebSocket-Key: {key}\r\n\r\n"
            ).encode()
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in head.splitlines()[0], head
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._task = asyncio.ensure_future(self._listen())

    async def send(self, room_id: str, event_type: str, content: Mapping[str, Any]) -> None:
        request_id = f"w{next(_transactions)}"
        answer = self._answers[request_id] = asyncio.get_running_loop().create_future()
        params = {"room_id": room_id, "event_type": event_type, "content": content}
        self._write(1, json.dumps({"id": request_id, "method": "send", "params": params}).encode())
        told = await asyncio.wait_for(answer, PATIENCE)
        assert "result" in told, told

    async def _listen(self) -> None:
        while True:
            opcode, payload = await self._frame()
            if opcode == 9:
                self._write(10, payload)
            elif opcode == 1:
                message = json.loads(payload)
                if "id" in message:
                    self._answers.pop(message["id"]).set_result(message)
                else:
                    self._take(message)

    async def _frame(self) -> tuple[int, bytes]:
        """The server masks nothing and fragments nothing."""
        first, length = await self._reader.readexactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", await self._reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self._reader.readexactly(8))
        return first & 15, await self._reader.readexactly(length)

    def _write(self, opcode: int, payload: bytes) -> None:
        mask = os.urandom(4)
        length = (
            struct.pack("!B", 128 | len(payload))
            if len(payload) < 126
            else struct.pack("!BH", 254, len(payload))
            if len(payload) < 1 << 16
            else struct.pack("!BQ", 255, len(payload))
        )
        masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
        self._writer.write(bytes([128 | opcode]) + length + mask + masked)

    async def close(self) -> None:
        await super().close()
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def lines(*opened: LongPollLine) -> AsyncIterator[None]:
    """Open them all, and close them at the end."""
    try:
        for line in opened:
            await line.open()
        yield
    finally:
        for line in opened:
            await line.close()
