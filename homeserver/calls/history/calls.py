# SPDX-License-Identifier: Apache-2.0
"""The values of call history: an event of a call, a call as one user sees it, and the tokens of its pages. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, Self

from msgspec import Struct

from homeserver.errors import InvalidParam

Kind = Literal["audio", "video", "group"]
Outcome = Literal["answered", "answered_elsewhere", "declined", "missed", "failed"]
State = Literal["ringing", "ongoing", "ended"]

MOST_OPEN: Final = 20
"""Calls whose end a token waits for; those beyond are the older ones."""
_PLACE = re.compile(r"h([1-9]\d{0,17})", re.ASCII)
_SINCE = re.compile(r"n(\d{1,18})((?:_\d{1,18}-\d{1,18}){0,20})", re.ASCII)


class CallEvent(NamedTuple):
    """What of an event tells about a call. `content` is an object, whatever is in it."""

    room: int
    position: int
    ts: int
    type: str
    state_key: str | None
    sender: str
    event_id: str
    content: Mapping[str, Any]

    def text(self, key: str) -> str | None:
        """A short string of the content."""
        value = self.content.get(key)
        return value if isinstance(value, str) and len(value) <= 255 else None

    def number(self, key: str, default: int, most: int) -> int:
        """A whole number of the content from 0 to `most`."""
        value = self.content.get(key)
        return min(value, most) if type(value) is int and value >= 0 else default


class Call(Struct, frozen=True, kw_only=True):
    """A call, as one user sees it."""

    room: int
    position: int
    """Of the event that began it: its place in the history."""
    event_id: str
    call_id: str
    kind: Kind
    outgoing: bool
    started_ts: int
    state: State
    outcome: Outcome | None = None
    """None while it is open."""
    settled: bool
    """Whether an event has ended it, rather than the time that has passed or nothing at all."""
    reason: str | None = None
    peer: str | None = None
    answered_ts: int | None = None
    ended_ts: int | None = None
    duration_ms: int | None = None
    participants: tuple[str, ...] = ()
    participant_count: int = 0
    notified: bool = False
    intent: str | None = None


class Place(NamedTuple):
    """Where a page ended: the next one has calls that began before this position."""

    position: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidParam."""
        match = _PLACE.fullmatch(text)
        if match is None:
            raise InvalidParam("Not a token of call history")
        return cls(int(match[1]))

    def __str__(self) -> str:
        return f"h{self.position}"


class Since(NamedTuple):
    """What was told: calls begun up to a position, but for the outcome of those that were open then, as (room,
    position)."""

    position: int
    open: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidParam."""
        match = _SINCE.fullmatch(text)
        if match is None:
            raise InvalidParam("Not a token of call history")
        pairs = (pair.split("-") for pair in match[2].split("_")[1:])
        return cls(int(match[1]), tuple((int(room), int(position)) for room, position in pairs))

    def __str__(self) -> str:
        return f"n{self.position}" + "".join(f"_{room}-{position}" for room, position in self.open)
