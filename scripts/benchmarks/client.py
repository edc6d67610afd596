# SPDX-License-Identifier: Apache-2.0
"""The load generator's HTTP/1.1 and WebSocket: as little work per request as it takes.

One connection carries one request at a time and stays open. Only what a Matrix homeserver sends is understood
(RFC 9112 bodies with a length or in chunks; RFC 6455 text frames), because the load generator shares the
machine with what it measures. It is not a client library: no redirects, no TLS, no compression.
"""

import asyncio
import base64
import os
import re
import struct
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import orjson

Json = dict[str, Any]

_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)
_NEXT_BATCH: Final = re.compile(rb'"next_batch":\s*"([^"]+)"')


class RequestFailed(Exception):
    """An answer other than 2xx."""

    def __init__(self, method: str, path: str, status: int, body: bytes) -> None:
        super().__init__(f"{method} {path}: {status} {body[:300].decode(errors='replace')}")
        self.status = status


class Connection(asyncio.Protocol):
    """One keep-alive connection. `request` opens it when it is not open."""

    __slots__ = ("_answer", "_buffer", "_host", "_port", "_transport")

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def request(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        """Send one request (`head` without its length and final line) and return status and body.

        A kept connection that the server closed in the meantime is opened anew, once.
        """
        message = b"%b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        kept = self._transport is not None
        try:
            return await self._exchange(message)
        except ConnectionError:
            if not kept:
                raise
            return await self._exchange(message)

    def close(self) -> None:
        """Close the connection; a request under way fails with `ConnectionError`."""
        if self._transport is not None:
            self._transport.abort()

    async def _exchange(self, message: bytes) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, self._host, self._port)
        assert self._transport is not None
        self._answer = loop.create_future()
        self._transport.write(message)
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request under way, if any."""
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("connection lost"))

    def data_received(self, data: bytes) -> None:
        """Collect bytes until an answer is whole."""
        self._buffer += data
        parsed = parse_response(self._buffer)
        if parsed is not None and self._answer is not None and not self._answer.done():
            self._buffer.clear()
            self._answer.set_result(parsed)


def parse_response(buffer: bytes | bytearray) -> tuple[int, bytes] | None:
    """Status and body of the HTTP/1.1 response in `buffer`, or None while it is not whole."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(buffer[:end])
    status = int(head[9:12])
    start = end + 4
    if (length := _LENGTH.search(head)) is not None:
        stop = start + int(length[1])
        return (status, bytes(buffer[start:stop])) if len(buffer) >= stop else None
    if _CHUNKED.search(head) is not None:
        body = _unchunk(buffer, start)
        return None if body is None else (status, body)
    return status, b""


def _unchunk(buffer: bytes | bytearray, position: int) -> bytes | None:
    parts = bytearray()
    while (line_end := buffer.find(b"\r\n", position)) >= 0:
        size = int(bytes(buffer[position:line_end]).split(b";")[0], 16)
        position = line_end + 2
        if len(buffer) < position + size + 2:
            return None
        if size == 0:
            return bytes(parts)
        parts += buffer[position : position + size]
        position += size + 2
    return None


class Client:
    """One user's device and its connection."""

    __slots__ = ("_connection", "_head", "device_id", "host", "port", "token", "user_id")

    def __init__(
        self, host: str, port: int, *, user_id: str = "", device_id: str = "", token: str = ""
    ) -> None:
        self.host = host
        self.port = port
        self.user_id = user_id
        self.device_id = device_id
        self.token = token
        self._connection = Connection(host, port)
        authorization = f"\r\nAuthorization: Bearer {token}" if token else ""
        self._head = (
            f" HTTP/1.1\r\nHost: {host}:{port}{authorization}\r\nContent-Type: application/json".encode()
        )

    def twin(self) -> "Client":
        """The same device on another connection."""
        return Client(self.host, self.port, user_id=self.user_id, device_id=self.device_id, token=self.token)

    def logged_in(self, answer: Json) -> "Client":
        """The device that an answer to a registration or a login names."""
        return Client(
            self.host,
            self.port,
            user_id=answer["user_id"],
            device_id=answer["device_id"],
            token=answer["access_token"],
        )

    async def call(self, method: str, path: str, body: Json | None = None) -> bytes:
        """Make one request and return the body of its answer; raise `RequestFailed` unless it is 2xx."""
        encoded = b"" if body is None else orjson.dumps(body)
        status, answer = await self._connection.request(f"{method} {path}".encode() + self._head, encoded)
        if not 200 <= status < 300:
            raise RequestFailed(method, path, status, answer)
        return answer

    async def call_json(self, method: str, path: str, body: Json | None = None) -> Json:
        """As `call`, with the answer decoded."""
        decoded: Json = orjson.loads(await self.call(method, path, body))
        return decoded

    async def log_in(self, password: str) -> "Client":
        """Another device of the same user."""
        identifier = {"type": "m.id.user", "user": self.user_id}
        body = {"type": "m.login.password", "identifier": identifier, "password": password}
        return self.logged_in(await self.call_json("POST", "/_matrix/client/v3/login", body))

    async def create_room(self, **options: Any) -> str:
        """Create a room and return its id."""
        room_id: str = (await self.call_json("POST", "/_matrix/client/v3/createRoom", options))["room_id"]
        return room_id

    async def join(self, room_id: str) -> None:
        """Join a room of this server."""
        await self.call("POST", f"/_matrix/client/v3/join/{quote(room_id)}", {})

    async def send(self, room_id: str, transaction: str, body: str) -> bytes:
        """Send a text message."""
        path = f"/_matrix/client/v3/rooms/{quote(room_id)}/send/m.room.message/{transaction}"
        return await self.call("PUT", path, {"msgtype": "m.text", "body": body})

    async def sync(
        self, *, since: str | None = None, timeout: int = 0, filter_json: str | None = None
    ) -> bytes:
        """One `/sync`; `timeout` in milliseconds."""
        path = f"/_matrix/client/v3/sync?timeout={timeout}"
        if since is not None:
            path += f"&since={quote(since)}"
        if filter_json is not None:
            path += f"&filter={quote(filter_json)}"
        return await self.call("GET", path)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def next_batch(sync_response: bytes) -> str:
    """The token of a sync response, without decoding the rest."""
    found = _NEXT_BATCH.search(sync_response)
    if found is None:
        raise ValueError(f"no next_batch in {sync_response[:200]!r}")
    return found[1].decode()


class WebSocket:
    """The receiving half of a Matrix WebSocket (`m.json`): text messages come out, pings are answered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, host: str, port: int, path: str, headers: Mapping[str, str]) -> "WebSocket":
        """Upgrade a new connection; raise `RequestFailed` if the server answers anything but 101."""
        reader, writer = await asyncio.open_connection(host, port)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host}:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if (status := int(head[9:12])) != 101:
            writer.transport.abort()
            raise RequestFailed("GET", path.partition("?")[0], status, head)
        return cls(reader, writer)

    async def receive(self) -> bytes:
        """The next text message, reassembled from its frames."""
        message = b""
        while True:
            final, opcode, payload = await self._frame()
            if opcode == 0x9:
                self._pong(payload)
            elif opcode == 0x8:
                raise ConnectionResetError(
                    f"the server closed the WebSocket: {payload[2:].decode(errors='replace')}"
                )
            elif opcode in {0x0, 0x1}:
                message += payload
                if final:
                    return message

    def close(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()

    async def _frame(self) -> tuple[bool, int, bytes]:
        first, second = await self._reader.readexactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", await self._reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self._reader.readexactly(8))
        return bool(first & 0x80), first & 0x0F, await self._reader.readexactly(length)

    def _pong(self, payload: bytes) -> None:
        # A client's frames are masked; an all-zero mask is a mask (RFC 6455 §5.3 asks for unpredictability to
        # protect proxies in between, of which there are none on the loopback).
        self._writer.write(bytes((0x8A, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
