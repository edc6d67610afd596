# SPDX-License-Identifier: Apache-2.0
"""The tokens clients hold on to: how far a sync has come, and a place in a room's timeline.

Owns their spelling. They are opaque to clients (client-server API, "Pagination"), so nothing here is promised to them;
but every process must read what any other wrote. What a token points at is others' business.
"""

import re
from typing import ClassVar, NamedTuple, Self

from homeserver.protocol.errors import ProtocolError

_MOST = 2**63 - 1
"""Positions and depths are 64-bit signed integers in the database."""

_SYNC = re.compile(r"s(\d{1,19})(?:_(\d{1,19})(?:_(\d{1,19}))?)?", re.ASCII)
_PLACE = re.compile(r"t(\d{1,19})_(-?\d{1,19})", re.ASCII)


class TokenError(ProtocolError):
    """A string that is no token of ours."""

    errcode: ClassVar[str] = "M_INVALID_PARAM"


class SyncToken(NamedTuple):
    """Everything stored at or below `position`, and everything fleeting at or below `ephemeral`, was sent."""

    position: int
    ephemeral: int = 0
    """Serial of the ephemeral clock, in milliseconds."""
    to_device: int = 0
    """Messages to the device were sent only up to here, there being too many for one response; 0: up to `position`."""

    @property
    def to_device_told(self) -> int:
        """Every message to the device at or below was sent."""
        return self.to_device or self.position

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `s<position>`, `s<position>_<ephemeral>` or `s<position>_<ephemeral>_<to_device>`. Raises TokenError."""
        match = _SYNC.fullmatch(text)
        if match is None:
            raise TokenError("not a sync token")
        return cls(_bounded(match[1]), _bounded(match[2] or "0"), _bounded(match[3] or "0"))

    def __str__(self) -> str:
        whole = f"s{self.position}_{self.ephemeral}"
        return f"{whole}_{self.to_device}" if self.to_device else whole


class PlaceToken(NamedTuple):
    """A place in a room's timeline, which is ordered by depth, then position.

    It lies just before the event that stands at these numbers: `prev_batch` of a timeline is made of the timeline's
    first event; paging backwards from it gives what comes before that event, paging forwards begins with it.
    """

    depth: int
    position: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `t<depth>_<position>`. Raises TokenError."""
        match = _PLACE.fullmatch(text)
        if match is None:
            raise TokenError("not a timeline token")
        return cls(_bounded(match[1]), _bounded(match[2]))

    @classmethod
    def after(cls, depth: int, position: int) -> Self:
        """The place just after an event, so that paging backwards from it begins with that event."""
        return cls(depth, position + 1)

    def __str__(self) -> str:
        return f"t{self.depth}_{self.position}"


def _bounded(digits: str) -> int:
    value = int(digits)
    if abs(value) > _MOST:
        raise TokenError("a token's number is out of range")
    return value
