# SPDX-License-Identifier: Apache-2.0
"""The five memberships of `m.room.member` and how to read one from an event's content.

Owns the names only; which change of membership is allowed is `event_auth.membership`'s.
"""

from collections.abc import Mapping
from enum import StrEnum


class Membership(StrEnum):
    """A user's membership of a room. Equal to, and usable as, the string in the event's content."""

    INVITE = "invite"
    JOIN = "join"
    KNOCK = "knock"
    LEAVE = "leave"
    BAN = "ban"

    @classmethod
    def from_content(cls, content: Mapping[str, object]) -> "Membership | None":
        """The content's membership, or `None` if it is absent, not a string or not one of the five."""
        value = content.get("membership")
        return _BY_VALUE.get(value) if isinstance(value, str) else None


_BY_VALUE: dict[str, Membership] = {str(membership): membership for membership in Membership}
