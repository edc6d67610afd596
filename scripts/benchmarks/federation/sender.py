# SPDX-License-Identifier: Apache-2.0
"""A sender of events that is no homeserver: it has a key, joins a room, and then talks; what it is sent it only counts.

Everything it sends is made and signed before the measuring begins, so that what it costs is not in the way.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from homeserver.protocol.building import build_event
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.event_auth import auth_types_for
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import room_version
from homeserver.protocol.signing import SigningKey, sign_json
from scripts.benchmarks.client import RequestFailed, parse_response
from scripts.benchmarks.servers import Federated

VERSION = "11"
_DAY = 24 * 3600 * 1000
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


class Sender:
    """Speaks to one homeserver as `server_name`, which serves nothing but its key."""

    def __init__(self, port: int, destination: str, federated: Federated) -> None:
        self.server_name = f"localhost:{port}"
        self.user_id = f"@sender:{self.server_name}"
        self.destination = destination
        self._port = port
        self._key = SigningKey.from_seed("ed25519:bench", secrets.token_bytes(32))
        self._trust = ssl.create_default_context(cafile=str(federated.ca_file))
        self._own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._own.load_cert_chain(federated.certificate, federated.private_key)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._server: asyncio.Server | None = None
        self._transactions = 0
        self.received = 0
        """Events that came in transactions."""
        self.received_bytes = 0
        """Of those transactions' bodies."""
        self._arrived = asyncio.Condition()

    async def open(self) -> None:
        """Begin to serve the key."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, ssl=self._own)

    def close(self) -> None:
        """End it all."""
        if self._server is not None:
            self._server.close()
        self.hang_up()

    def hang_up(self) -> None:
        """The next request opens a connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def join(self, room_id: str, *, omit_members: bool = False) -> list[Event]:
        """Join a room of the destination's; its state afterwards, with the join as the last."""
        event, answer = await self._move(room_id, "join", f"?omit_members={str(omit_members).lower()}")
        return [Event.from_pdu(pdu, room_version(VERSION)) for pdu in answer["state"]] + [event]

    async def leave(self, room_id: str) -> None:
        """Leave it again."""
        await self._move(room_id, "leave")

    async def _move(self, room_id: str, membership: str, query: str = "") -> tuple[Event, dict[str, Any]]:
        """The member event, and what the destination answers to it."""
        user = quote(self.user_id)
        versions = f"?ver={VERSION}" if membership == "join" else ""
        path = f"/_matrix/federation/v1/make_{membership}/{quote(room_id)}/{user}{versions}"
        template = (await self.request("GET", path))["event"]
        built = build_event(
            room_version=room_version(VERSION),
            room_id=room_id,
            event_type="m.room.member",
            state_key=self.user_id,
            sender=self.user_id,
            content={"membership": membership},
            prev_event_ids=template["prev_events"],
            auth_event_ids=template["auth_events"],
            depth=template["depth"],
            origin_server_ts=_now(),
            server_name=self.server_name,
            signing_key=self._key,
        )
        path = (
            f"/_matrix/federation/v2/send_{membership}/{quote(room_id)}/{quote(built.event.event_id)}{query}"
        )
        return built.event, await self.request("PUT", path, orjson.loads(built.json_bytes))

    def messages(self, state: Sequence[Event], count: int) -> list[Event]:
        """Messages, each upon the one before, the first upon the join that ends the state."""
        by_key = {event.state_tuple: event for event in state}
        previous = state[-1]
        made = []
        for number in range(count):
            content = {"msgtype": "m.text", "body": f"A message from afar, number {number}"}
            previous = self.event(self.user_id, "m.room.message", content, previous=[previous], state=by_key)
            made.append(previous)
        return made

    def event(
        self,
        user: str,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        previous: Sequence[Event],
        state: Mapping[tuple[str, str], Event],
    ) -> Event:
        """An event of one of its users upon those before it, authorized by the state."""
        rules = room_version(VERSION)
        keys = auth_types_for(rules, event_type, user, state_key, content)
        return build_event(
            room_version=rules,
            room_id=previous[0].room_id,
            event_type=event_type,
            state_key=state_key,
            sender=user,
            content=dict(content),
            prev_event_ids=[event.event_id for event in previous],
            auth_event_ids=[state[key].event_id for key in keys if key in state],
            depth=max(event.depth for event in previous) + 1,
            origin_server_ts=_now(),
            server_name=self.server_name,
            signing_key=self._key,
        ).event

    def transaction(self, events: Sequence[Event]) -> tuple[str, bytes, str]:
        """A signed transaction ready to go: path, body, Authorization."""
        self._transactions += 1
        path = f"/_matrix/federation/v1/send/{_now()}-{self._transactions}"
        body = {
            "origin": self.server_name,
            "origin_server_ts": _now(),
            "pdus": [event.pdu for event in events],
            "edus": [],
        }
        return path, encode_canonical(body, strict=False), self._authorization("PUT", path, body)

    async def send(self, transaction: tuple[str, bytes, str]) -> dict[str, Any]:
        """Send it; the answer."""
        path, body, authorization = transaction
        return await self._exchange("PUT", path, body, authorization)

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Any other signed request."""
        payload = b"" if body is None else encode_canonical(body, strict=False)
        return await self._exchange(method, path, payload, self._authorization(method, path, body))

    def _authorization(self, method: str, path: str, body: dict[str, Any] | None) -> str:
        signed = {"method": method, "uri": path, "origin": self.server_name, "destination": self.destination}
        if body is not None:
            signed["content"] = body  # type: ignore[assignment]
        signatures = sign_json(signed, self.server_name, self._key, strict=False)["signatures"]
        signature = signatures[self.server_name][self._key.key_id]
        return (
            f'X-Matrix origin="{self.server_name}",destination="{self.destination}",'
            f'key="{self._key.key_id}",sig="{signature}"'
        )

    async def _exchange(self, method: str, path: str, body: bytes, authorization: str) -> dict[str, Any]:
        reader, writer = await self._connection()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self.destination}\r\nAuthorization: {authorization}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        buffer = bytearray()
        while (parsed := parse_response(buffer)) is None:
            data = await reader.read(1 << 20)
            if not data:
                self._streams = None
                raise ConnectionResetError(f"{method} {path}: the connection ended")
            buffer += data
        status, answer = parsed
        if status != 200:
            raise RequestFailed(method, path, status, answer)
        decoded: dict[str, Any] = orjson.loads(answer)
        return decoded

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[0].at_eof():
            port = int(self.destination.rpartition(":")[2])
            self._streams = await asyncio.open_connection(
                "127.0.0.1", port, ssl=self._trust, server_hostname="localhost", limit=1 << 24
            )
        return self._streams

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                if b"/_matrix/federation/v1/send/" in head:
                    status, answer = b"200 OK", b'{"pdus":{}}'
                    await self._count(body)
                elif b"/_matrix/key/" in head:
                    status, answer = b"200 OK", self._published()
                else:
                    status, answer = b"404 Not Found", b"{}"
                writer.write(
                    b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (status, len(answer), answer)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.transport.abort()  # a task that ends as cancelled would be complained about

    async def _count(self, body: bytes) -> None:
        async with self._arrived:
            self.received += len(orjson.loads(body).get("pdus", ()))
            self.received_bytes += len(body)
            self._arrived.notify_all()

    async def wait_received(self, count: int) -> None:
        """Return once so many events have come altogether."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.received >= count)

    def _published(self) -> bytes:
        keys = {
            "server_name": self.server_name,
            "valid_until_ts": _now() + _DAY,
            "verify_keys": {self._key.key_id: {"key": self._key.verify_key.to_base64()}},
            "old_verify_keys": {},
        }
        return orjson.dumps(sign_json(keys, self.server_name, self._key))


def _now() -> int:
    return int(time.time() * 1000)
