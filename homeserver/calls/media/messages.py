# SPDX-License-Identifier: Apache-2.0
"""What the server and its media process say to each other: one JSON object per line, either way.

Owns the values and their form. The server commands:

    {"do": "answer", "id", "sdp", "ice": [{"uris", "username", "password"}]}
    {"do": "candidates", "id", "candidates": [{"candidate", "sdpMid", "sdpMLineIndex"}]}
    {"do": "negotiate", "id", "sdp"}       {"do": "end", "id", "why"}
    {"do": "allocate" | "loop" | "offer", "id", …}                  (see `examining`)
    {"do": "accept", "id", "sdp"}

and the media process tells: {"tell": "ready"}, {"tell": "answer" | "negotiated" | "offer", "id", "sdp"},
{"tell": "ended", "id", "report"}, {"tell": "result", "id", "result"}, {"tell": "failed", "id", "error"}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Ending: TypeAlias = Literal[
    "over", "caller", "vanished", "no_path", "no_handshake", "too_much", "unusable", "stopped"
]
"""Why a call ended: its time was over; the caller hung up; nothing came any more; no path was found, or one but no
encrypted connection over it; more came than is carried; the offer or what followed could not be used; the server or its
media process stopped."""

MOST_LINE = 1 << 20
"""Bytes of a line: descriptions are no larger than the events they come in (64 KiB)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IceServer:
    """A TURN or STUN server, with what proves to it that we may use it."""

    uris: Sequence[str]
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"IceServer({self.uris!r}, {self.username!r}, …)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What arrived of one kind of media."""

    kind: str
    """`audio` or `video`."""
    codec: str
    packets: int
    lost: int
    jitter_ms: float
    frames: int
    """Decoded."""
    silent: bool = False
    """There was sound, and all of it silence."""
    size: str = ""
    """Of pictures, such as 640×480."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReport:
    """What became of a call, as its media process saw it."""

    why: Ending
    seconds: float
    """From the answer to the end."""
    connected: bool
    """Whether a path was found and the encrypted connection over it stood."""
    connected_after_ms: int = 0
    local: str = ""
    """Kind of the candidate used on our side: `host`, `srflx`, `prflx`, `relay`."""
    remote: str = ""
    """And on the caller's."""
    offered: Sequence[str] = ()
    """Kinds of the candidates we had to offer."""
    heard_of: Sequence[str] = ()
    """Kinds of the candidates the caller offered."""
    received: Sequence[Received] = ()
    relay_failed: bool = False
    """A TURN server is configured, and gave us no address."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def parse(cls, source: Mapping[str, Any]) -> CallReport:
        """Of what `as_dict` gave."""
        received = tuple(Received(**each) for each in source["received"])
        return cls(**{**source, "received": received})


def stopped(seconds: float = 0.0) -> CallReport:
    """The report of a call nobody can tell more of."""
    return CallReport(why="stopped", seconds=seconds, connected=False)
