# SPDX-License-Identifier: Apache-2.0
"""What parent and worker tell each other: one JSON object per line, over a pair of sockets.

Owns the forms. The first line that a worker reads is its `Orders`; what it tells is `ready` or `refused`, once. The end
of the connection tells either that the other is gone.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

MOST: Final = 16 * 2**20
"""Bytes of a line."""
DRAIN: Final = b'{"drain": true}\n'
"""From the parent: another serves in your place; end when your connections have had their answers."""


class Gone(Exception):
    """The other end closed before its line was whole."""


@dataclass(frozen=True, slots=True)
class ConfigText:
    """A configuration as it was read, so that all workers of an edition have the same."""

    text: str
    """Its values as JSON."""
    source: str
    """Names it in errors."""
    folder: str
    """What relative paths begin from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a worker starts with. Descriptors are those that it inherited."""

    number: int
    """Among those who live it alone has it."""
    seats: int
    """One more than the greatest number there can be."""
    config: ConfigText
    dsn: str
    sockets: Sequence[int]
    siblings: int
    roster: int
    limits: int
    meeting: str
    """What the addresses begin with at which workers ask each other for their figures."""
    welcomes: bool
    """Whether it finds out what a new administrator is told."""

    def encode(self) -> bytes:
        """As a line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Orders:
        """From a line."""
        fields: dict[str, Any] = json.loads(line)
        fields["config"] = ConfigText(**fields["config"])
        return cls(**fields)


def say(control: socket.socket, message: Mapping[str, object]) -> None:
    """Send one line. Raises OSError. Blocks if much waits there already."""
    control.sendall(json.dumps(message).encode() + b"\n")


def read_line(control: socket.socket) -> bytes:
    """The next line; nothing beyond it is taken. Blocks. Raises Gone."""
    received = bytearray()
    while not received.endswith(b"\n"):
        # A line's end is found before it is passed, since what follows is for another reader.
        ahead = control.recv(65536, socket.MSG_PEEK)
        if not ahead or len(received) > MOST:
            raise Gone
        received += control.recv(ahead.find(b"\n") + 1 or len(ahead))
    return bytes(received)
