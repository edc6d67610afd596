# SPDX-License-Identifier: Apache-2.0
"""Power levels: who has how much, and how much an action takes.

Owns reading `m.room.power_levels` and the creators of `m.room.create`, with each room version's idea of an
integer and the defaults where either is silent. Does not own what a level entitles to beyond a comparison,
nor who may change levels: both are `event_auth`'s.
"""

import math
import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import RoomVersion

# Version 12 creators have infinite power. Levels of that version are within ±(2^53 − 1), so this integer is
# above all of them, equal among creators, and still fits a `bigint` column.
CREATOR_LEVEL: Final = 2**63 - 1

# (client-server API, `m.room.power_levels`; "Definitions" of the server-server API's authorization rules)
DEFAULT_LEVELS: Final[Mapping[str, int]] = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "invite": 0,
    "kick": 50,
    "ban": 50,
    "redact": 50,
}
_DEFAULT_NOTIFICATION_LEVEL: Final = 50
_DEFAULT_CREATOR_LEVEL: Final = 100

_INTEGER: Final = re.compile(r"[+-]?[0-9]+\Z")


def parse_level(version: RoomVersion, value: object) -> int | None:
    """The level a JSON value stands for, or `None` if it stands for none in this room version.

    From version 10, integers only. Before, also strings of one base-10 integer with optional sign, leading
    zeroes and surrounding white space; in versions 1–5, where canonical JSON is not enforced, also finite
    floats, truncated. Booleans are no integers.
    """
    if type(value) is int:
        return value
    if version.integer_power_levels:
        return None
    if isinstance(value, str):
        text = value.strip()
        try:
            return int(text) if _INTEGER.match(text) else None
        except ValueError:  # more digits than Python converts: no server reads such a level
            return None
    if isinstance(value, float) and version.float_power_levels and math.isfinite(value):
        return int(value)
    return None


def creators_of(create: Event) -> frozenset[str]:
    """The users the room's version treats as creators, given its `m.room.create` event.

    The sender; in versions 1–10 `content.creator` instead (equal to it in any honest room); in version 12 the
    sender and `content.additional_creators`.
    """
    version = create.room_version
    if version.create_has_creator:
        creator = create.content.get("creator")
        return frozenset((creator,)) if isinstance(creator, str) else frozenset()
    if not version.privileged_creators:
        return frozenset((create.sender,))
    additional = create.content.get("additional_creators")
    if not isinstance(additional, list | tuple):
        return frozenset((create.sender,))
    return frozenset((create.sender, *(user for user in additional if isinstance(user, str))))


class PowerLevels(Struct, frozen=True):
    """A view over one power levels content. Made without reading the content, so that a check pays only for
    what it asks; the content must not change underneath.

    A value that is no level in this version counts as absent. Authorization lets such values through only in
    the first power levels of a room of version 9 or below, and no rule says what they would mean.
    """

    version: RoomVersion
    content: Mapping[str, object] | None
    creators: frozenset[str]

    @classmethod
    def of_events(cls, power_levels: Event | None, create: Event) -> "PowerLevels":
        """The levels in force under these two state events; `None` where the room has no power levels yet."""
        return cls(
            create.room_version, None if power_levels is None else power_levels.content, creators_of(create)
        )

    def user_level(self, user_id: str) -> int:
        """The level of a user, joined or not. `CREATOR_LEVEL` for the creators of a version 12 room."""
        if user_id in self.creators:
            if self.version.privileged_creators:
                return CREATOR_LEVEL
            if self.content is None:
                return _DEFAULT_CREATOR_LEVEL
        level = self._entry("users", user_id)
        return self.named_level("users_default") if level is None else level

    def event_level(self, event_type: str, *, is_state: bool) -> int:
        """The level needed to send an event of this type, as a state event or not ("required power
        level").
        """
        level = self._entry("events", event_type)
        if level is not None:
            return level
        return self.named_level("state_default" if is_state else "events_default")

    def notification_level(self, key: str) -> int:
        """The level needed for a notification kind, e.g. `room` for `@room`."""
        level = self._entry("notifications", key)
        return _DEFAULT_NOTIFICATION_LEVEL if level is None else level

    def named_level(self, name: str) -> int:
        """The level of one of the properties in `DEFAULT_LEVELS`; KeyError for any other name."""
        default = DEFAULT_LEVELS[name]
        if self.content is None:
            return default
        level = parse_level(self.version, self.content.get(name))
        return default if level is None else level

    @property
    def invite(self) -> int:
        """The level needed to invite a user."""
        return self.named_level("invite")

    @property
    def kick(self) -> int:
        """The level needed to kick a user (who must also have less than oneself)."""
        return self.named_level("kick")

    @property
    def ban(self) -> int:
        """The level needed to ban a user (who must also have less than oneself)."""
        return self.named_level("ban")

    @property
    def redact(self) -> int:
        """The level needed to redact other users' events."""
        return self.named_level("redact")

    def may_send(self, user_id: str, event_type: str, *, is_state: bool) -> bool:
        """Whether the user's level reaches the type's; membership and other rules are not asked."""
        return self.user_level(user_id) >= self.event_level(event_type, is_state=is_state)

    def _entry(self, property_name: str, key: str) -> int | None:
        entries = None if self.content is None else self.content.get(property_name)
        if not isinstance(entries, Mapping):
            return None
        return parse_level(self.version, entries.get(key))
