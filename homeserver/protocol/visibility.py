# SPDX-License-Identifier: Apache-2.0
"""History visibility: whether a user may see an event (client-server API, "Room History Visibility").

Owns the decision, as a function of facts the caller has stored beside the event or the user. Does not own
ignored users, erasure, redaction or the room's existence: those are other people's reasons to withhold an
event.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, Self

from homeserver.protocol.membership import Membership


class HistoryVisibility(IntEnum):
    """The room's setting in force when an event was sent. The numbers are stored as `smallint`: never
    renumber.

    They carry no order: `INVITED` shows an invited user who never joins what `SHARED` does not.
    """

    WORLD_READABLE = 0
    SHARED = 1
    INVITED = 2
    JOINED = 3

    @classmethod
    def from_content(cls, content: Mapping[str, object] | None) -> Self:
        """Read an `m.room.history_visibility` content; `None` stands for a room without that event.

        Absent, malformed and unknown values all mean `SHARED` ("if no `history_visibility` is set, or if the
        value is not understood").
        """
        value = content.get("history_visibility") if content is not None else None
        return cls(_BY_NAME.get(value, 1) if isinstance(value, str) else 1)

    @property
    def content_value(self) -> str:
        """The string the event's content holds for this setting."""
        return self.name.lower()


_BY_NAME: Final = {setting.content_value: int(setting) for setting in HistoryVisibility}


def may_see_event(
    *,
    visibility: HistoryVisibility,
    membership: Membership | None,
    joined_later: bool,
    visibility_after: HistoryVisibility | None = None,
    membership_after: Membership | None = None,
) -> bool:
    """Whether a user may see an event.

    - `visibility`, `membership`: the room's setting and the user's membership in the state *before* the
      event; `None` for a user who had no member event by then.
    - `joined_later`: whether the user's membership was `join` at any point after the event, now included.
      Only `SHARED` looks at it, so a caller may pass `False` unasked for the other settings.
    - `visibility_after`: only for an `m.room.history_visibility` event (state key empty), the setting it
      makes.
    - `membership_after`: only for the user's own `m.room.member` event, the membership it makes.

    An event that changes one of the two facts is visible if it would be under the fact before *or* after it.
    What the user may see is fixed by these facts alone: leaving the room later neither adds to it nor takes
    from it, and events after the leave fall under the user's membership `leave`.
    """
    if _may_see(visibility, membership, joined_later):
        return True
    if visibility_after is not None and _may_see(visibility_after, membership, joined_later):
        return True
    return membership_after is not None and _may_see(visibility, membership_after, joined_later)


def _may_see(visibility: HistoryVisibility, membership: Membership | None, joined_later: bool) -> bool:
    """The five numbered rules of "Room History Visibility", server behaviour."""
    if visibility is HistoryVisibility.WORLD_READABLE or membership is Membership.JOIN:
        return True
    if visibility is HistoryVisibility.SHARED:
        return joined_later
    return visibility is HistoryVisibility.INVITED and membership is Membership.INVITE
