# SPDX-License-Identifier: Apache-2.0
"""The room as the authorization rules see it: the few questions they ask of a set of state events."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from homeserver.protocol.event_auth.errors import AuthError
from homeserver.protocol.events import Event
from homeserver.protocol.membership import Membership
from homeserver.protocol.power_levels import PowerLevels
from homeserver.protocol.room_versions import RoomVersion

StateEvents = Mapping[tuple[str, str], Event]

CREATE = ("m.room.create", "")
POWER_LEVELS = ("m.room.power_levels", "")
JOIN_RULES = ("m.room.join_rules", "")


class RoomState(Struct, frozen=True):
    """State events to authorize against, with the create event found and the power levels at hand."""

    version: RoomVersion
    events: StateEvents
    create: Event
    levels: PowerLevels

    @classmethod
    def of(cls, events: StateEvents) -> "RoomState":
        """Raises AuthError if there is no create event, without which no rule can be read."""
        create = events.get(CREATE)
        if create is None:
            raise AuthError("there is no m.room.create event in the room state")
        levels = PowerLevels.of_events(events.get(POWER_LEVELS), create)
        return cls(create.room_version, events, create, levels)

    def membership(self, user_id: str) -> Membership | None:
        """The user's membership; `None` for a user without a (readable) member event, who counts as having
        left.
        """
        event = self.events.get(("m.room.member", user_id))
        return None if event is None else Membership.from_content(event.content)

    @property
    def join_rule(self) -> str:
        """The join rule; `invite` where the room has none, and "" where it is not a string, which allows
        nobody.
        """
        event = self.events.get(JOIN_RULES)
        if event is None:
            return "invite"
        rule: Any = event.content.get("join_rule", "invite")
        return rule if isinstance(rule, str) else ""

    def require_joined(self, user_id: str) -> None:
        """Raises AuthError unless the user is joined. ("not in room" is a phrase that bridges look for.)"""
        if self.membership(user_id) is not Membership.JOIN:
            raise AuthError(f"{user_id} is not in room {self.create.room_id}")
