# SPDX-License-Identifier: Apache-2.0
"""WebSockets as a client has them, frame by frame, and a client that follows a room over one after the other."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

from tests.serving import ServerProcess

TEXT, CLOSE = 1, 8
GOING_AWAY = 1001
_ALL = json.dumps({"room": {"timeline": {"limit": 500}}})
"""A filter by which a timeline has no gap, however long somebody was away,"""
FEW = 400
"""where no more is said."""


@contextmanager
def websocket(server: ServerProcess, token: str, since: str) -> Iterator[socket.socket]:
    """A WebSocket that was accepted."""
    asked = {"access_token": token, "since": since, "set_presence": "offline", "filter": _ALL}
    handshake = (
        f"GET /_matrix/client/ws/r0?{urlencode(asked)} HTTP/1.1\r\n"
        "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Protocol: m.json\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=180.0) as connection:
        connection.sendall(handshake.encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += _received(connection, 1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield connection


def next_frame(connection: socket.socket) -> tuple[int, bytes]:
    """The next frame: its opcode and payload."""
    head = _received(connection, 2)
    length = head[1]
    if length > 125:
        length = int.from_bytes(_received(connection, 2 if length == 126 else 8), "big")
    return head[0] & 0x0F, _received(connection, length)


def frame(connection: socket.socket, opcode: int) -> bytes:
    """The payload of the next frame of a kind; those before it are read past."""
    while True:
        found, payload = next_frame(connection)
        if found == opcode:
            return payload


def close_back(connection: socket.socket, payload: bytes) -> None:
    """Answer a close frame, masked as a client must."""
    connection.sendall(b"\x88\x82\0\0\0\0" + payload[:2])


def _received(connection: socket.socket, count: int) -> bytes:
    received = connection.recv(count, socket.MSG_WAITALL) if count else b""
    assert len(received) == count, "the connection ended without a close frame"
    return received


class Follower(threading.Thread):
    """A client that hears what is said in a room, and goes on from its last token whenever it is sent away."""

    def __init__(self, server: ServerProcess, token: str, since: str, *, last: str) -> None:
        """Begins at once, and ends when it has heard `last`."""
        super().__init__(daemon=True)
        self.heard: list[str] = []
        self.closed_with: list[int] = []
        self.following = threading.Event()
        """It has had a first update."""
        self.error: BaseException | None = None
        self._server = server
        self._token = token
        self._since = since
        self._last = last
        self.start()

    def run(self) -> None:
        try:
            while self._last not in self.heard:
                self._follow()
        except BaseException as error:
            self.error = error

    def _follow(self) -> None:
        with websocket(self._server, self._token, self._since) as connection:
            while self._last not in self.heard:
                kind, payload = next_frame(connection)
                if kind == CLOSE:
                    self.closed_with.append(int.from_bytes(payload[:2], "big"))
                    close_back(connection, payload)
                    return
                if kind == TEXT:
                    self._take(payload)

    def _take(self, payload: bytes) -> None:
        update = json.loads(payload)
        self._since = update["next_batch"]
        for room in update["rooms"]["join"].values():
            events = room["timeline"]["events"]
            self.heard += [event["content"]["body"] for event in events if event["type"] == "m.room.message"]
        self.following.set()
