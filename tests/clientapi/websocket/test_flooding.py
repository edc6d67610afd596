# SPDX-License-Identifier: Apache-2.0
"""A client that sends without end and reads nothing must not fill the server's memory."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock, StringTransport

from homeserver.clientapi.websocket.wire import Wire, wire_factory

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CONTINUATION, TEXT, PING, PONG = 0, 1, 9, 10


class Frames:
    """A session that keeps what comes."""

    def __init__(self) -> None:
        self.received_frames: list[bytes] = []

    def start(self) -> None: ...

    def closed(self) -> None: ...

    def received(self, frame: bytes) -> None:
        self.received_frames.append(frame)


class Peer:
    """A connection whose client is played by the test."""

    def __init__(self) -> None:
        clock: Any = MemoryReactorClock()  # type: ignore[no-untyped-call]
        self.session: Any = Frames()
        self.transport: Any = StringTransport()  # type: ignore[no-untyped-call]
        self.wire: Any = Wire(wire_factory(clock), clock, lambda _peer: self.session)
        self.wire.makeConnection(self.transport)  # type: ignore[no-untyped-call]
        self.wire.dataReceived(HANDSHAKE)
        self.transport.clear()  # type: ignore[no-untyped-call]

    def send(self, opcode: int, payload: bytes = b"", *, final: bool = True) -> None:
        """A frame of fewer than 126 bytes, masked with zeros."""
        head = bytes([opcode | (0x80 if final else 0), 0x80 | len(payload)])
        self.wire.dataReceived(head + bytes(4) + payload)

    @property
    def flow(self) -> Any:
        return self.transport.producer


@pytest.fixture
def peer() -> Peer:
    return Peer()


def pong(payload: bytes) -> bytes:
    return bytes([0x80 | PONG, len(payload)]) + payload


def test_each_ping_is_answered_while_the_client_reads(peer: Peer) -> None:
    peer.send(PING, b"one")
    peer.send(PING, b"two")
    assert peer.transport.value() == pong(b"one") + pong(b"two")


def test_pings_of_a_client_that_does_not_read_are_answered_once(peer: Peer) -> None:
    peer.flow.pauseProducing()
    for number in range(1000):
        peer.send(PING, b"%d" % number)
    assert peer.transport.value() == b""
    peer.flow.resumeProducing()
    assert peer.transport.value() == pong(b"999")
    peer.send(PING, b"again")
    assert peer.transport.value() == pong(b"999") + pong(b"again")


def test_a_message_of_empty_fragments_takes_no_memory(peer: Peer) -> None:
    peer.send(TEXT, b"a", final=False)
    for _ in range(1000):
        peer.send(CONTINUATION, final=False)
    assert len(peer.wire.message_data) == 1
    peer.send(CONTINUATION, b"b")
    assert peer.session.received_frames == [b"ab"]
