# SPDX-License-Identifier: Apache-2.0
"""A tap on the line between a server and Postgres: what passes is forwarded, and counted by the protocol's own marks.

Owns a Unix socket that looks like Postgres', and a thread that forwards. An answer is held until it is complete, so
that the server reads it in one piece whatever the machine does meanwhile. What is counted is told by the protocol
(PostgreSQL, "Message Formats"), not by the server's code, which may change how it speaks.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

_ENCRYPTION_REQUESTS = (80877103, 80877104)
"""The codes of SSLRequest and GSSENCRequest, which have no type byte and come before anything else."""
_ENDS_OF_STATEMENTS = (b"C", b"E", b"I")
"""CommandComplete, ErrorResponse, EmptyQueryResponse."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What has passed so far, all connections together."""

    round_trips: int = 0
    """Requests that Postgres said it was through with (ReadyForQuery)."""
    statements: int = 0
    notifications: int = 0
    """Messages of NOTIFY that came in."""
    sent: int = 0
    """Bytes to Postgres, as is `received` from it."""
    received: int = 0


class Tap:
    """Listens in `directory` and forwards to the Postgres whose socket is given. Close it after the server's end."""

    def __init__(self, directory: Path, target: Path) -> None:
        self.socket_name = directory / target.name
        self._target = target
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.socket_name))
        self._listening.listen(64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
        self._waker, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._lines: set[_Line] = set()
        self._past = Traffic()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._forward, name="tap", daemon=True)
        self._thread.start()

    def traffic(self) -> Traffic:
        """The sum over all connections, those that ended included."""
        with self._lock:
            return _sum([self._past, *(line.traffic() for line in self._lines)])

    def busy(self) -> bool:
        """Whether Postgres owes an answer."""
        with self._lock:
            return any(line.owed for line in self._lines)

    def backends(self) -> list[int]:
        """The process ids of Postgres' side of the connections."""
        with self._lock:
            return [line.backend for line in self._lines if line.backend]

    def close(self) -> None:
        """Hang up everything."""
        self._waker.send(b"x")
        self._thread.join(10.0)
        for line in self._lines:
            line.close()
        for each in (self._listening, self._waker, self._woken):
            each.close()
        self._selector.close()

    def _forward(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                with self._lock:
                    key.data()

    def _accept(self) -> None:
        front, _ = self._listening.accept()
        back = socket.socket(socket.AF_UNIX)
        try:
            back.connect(str(self._target))
        except OSError:  # the database ends
            front.close()
            back.close()
            return
        line = _Line(front, back)
        self._lines.add(line)

        def forward(step: str) -> None:
            try:
                alive = line.from_front() if step == "front" else line.from_back()
            except OSError:
                alive = False
            if not alive and line in self._lines:
                self._lines.discard(line)
                self._past = _sum([self._past, line.traffic()])
                for each in (front, back):
                    self._selector.unregister(each)
                line.close()

        self._selector.register(front, selectors.EVENT_READ, lambda: forward("front"))
        self._selector.register(back, selectors.EVENT_READ, lambda: forward("back"))


class _Line:
    """One connection through the tap."""

    def __init__(self, front: socket.socket, back: socket.socket) -> None:
        self._front, self._back = front, back
        self._asked, self._answered = bytearray(), bytearray()
        self._started = False
        self._counted = 0
        """How much of what Postgres said, and is not forwarded yet, has been looked at."""
        self._round_trips = self._statements = self._notifications = self._sent = self._received = 0
        self.owed = 0
        self.backend = 0

    def traffic(self) -> Traffic:
        return Traffic(self._round_trips, self._statements, self._notifications, self._sent, self._received)

    def close(self) -> None:
        for each in (self._front, self._back):
            with contextlib.suppress(OSError):
                each.close()

    def from_front(self) -> bool:
        """Forward what the server says; False once it has hung up."""
        data = self._front.recv(1 << 18)
        self._asked += data
        while (message := _message(self._asked, typed=self._started)) is not None:
            if not self._started:
                self._started = struct.unpack_from("!i", message, 4)[0] not in _ENCRYPTION_REQUESTS
                self.owed += self._started
            elif message[:1] in {b"Q", b"S"}:
                self.owed += 1
            self._sent += len(message)
            self._back.sendall(message)
        return bool(data)

    def from_back(self) -> bool:
        """Forward what Postgres answers, once it is complete; False once it has hung up."""
        data = self._back.recv(1 << 18)
        if not self._started:  # the single letter that answers a request for encryption
            self._front.sendall(data)
            return bool(data)
        self._answered += data
        complete = 0
        while (end := _end(self._answered, self._counted)) is not None:
            self._count(self._counted)
            self._counted = end
            if self._round_trips == 0 or self.owed == 0:  # while connecting, or between answers
                complete = end
        if complete:
            self._front.sendall(self._answered[:complete])
            self._received += complete
            del self._answered[:complete]
            self._counted -= complete
        return bool(data)

    def _count(self, offset: int) -> None:
        kind = bytes(self._answered[offset : offset + 1])
        if kind == b"Z":
            self._round_trips += 1
            self.owed -= 1
        elif kind in _ENDS_OF_STATEMENTS:
            self._statements += 1
        elif kind == b"A":
            self._notifications += 1
        elif kind == b"K":
            self.backend = struct.unpack_from("!i", self._answered, offset + 5)[0]


def _message(buffer: bytearray, *, typed: bool) -> bytes | None:
    """Take the first whole message off the buffer."""
    head = 1 if typed else 0
    if len(buffer) < head + 4:
        return None
    length = head + struct.unpack_from("!i", buffer, head)[0]
    if len(buffer) < length:
        return None
    message = bytes(buffer[:length])
    del buffer[:length]
    return message


def _end(buffer: bytearray, offset: int) -> int | None:
    """Where the message that begins at the offset ends, if it is all there."""
    if len(buffer) < offset + 5:
        return None
    end: int = offset + 1 + struct.unpack_from("!i", buffer, offset + 1)[0]
    return end if len(buffer) >= end else None


def _sum(parts: list[Traffic]) -> Traffic:
    return Traffic(
        sum(each.round_trips for each in parts),
        sum(each.statements for each in parts),
        sum(each.notifications for each in parts),
        sum(each.sent for each in parts),
        sum(each.received for each in parts),
    )
