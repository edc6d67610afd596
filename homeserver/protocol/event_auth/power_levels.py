# SPDX-License-Identifier: Apache-2.0
"""The rule for `m.room.power_levels`: a well-formed content that raises or lowers nothing above the
sender.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from homeserver.protocol.event_auth.errors import AuthError
from homeserver.protocol.event_auth.room_state import POWER_LEVELS, RoomState
from homeserver.protocol.events import Event
from homeserver.protocol.identifiers import is_valid_user_id
from homeserver.protocol.power_levels import DEFAULT_LEVELS, parse_level
from homeserver.protocol.room_versions import RoomVersion

_NAMED: Final = tuple(DEFAULT_LEVELS)

# A level before and after; `None` where there is no entry.
_Change = tuple[str, int | None, int | None]


def check_power_levels(event: Event, room: RoomState) -> None:
    """Raises AuthError unless the content is well formed for the room's version and each change is within the
    sender's power.
    """
    content = event.content
    _check_form(content, room)
    current = room.events.get(POWER_LEVELS)
    if current is None:
        return
    version, level = room.version, room.levels.user_level(event.sender)
    maps = ("events", "notifications") if version.limits_notification_levels else ("events",)
    changes = list(_changes(version, _only(current.content, _NAMED), _only(content, _NAMED)))
    for name in maps:
        changes += _changes(version, _entries(current.content, name), _new_entries(content, name))
    for name, old, new in changes:
        if (old is not None and old > level) or (new is not None and new > level):
            raise AuthError(f"{event.sender} has not enough power to change the level of {name[:64]!r}")
    for user_id, old, new in _changes(version, _entries(current.content, "users"), content.get("users", {})):
        if old is not None and old >= level and user_id != event.sender:
            raise AuthError(f"{event.sender} has not enough power to change the level of {user_id}")
        if new is not None and new > level:
            raise AuthError(f"{event.sender} has not enough power to give {user_id} that level")


def _check_form(content: Mapping[str, Any], room: RoomState) -> None:
    version = room.version
    if version.integer_power_levels:
        for name in _NAMED:
            if name in content and type(content[name]) is not int:
                raise AuthError(f"{name} is not an integer")
        for name in ("events", "notifications"):
            if any(type(level) is not int for level in _new_entries(content, name).values()):
                raise AuthError(f"{name} holds a level that is not an integer")
    users = _new_entries(content, "users")
    for user_id, level in users.items():
        if not is_valid_user_id(user_id):
            raise AuthError("users holds a key that is not a user id")
        if parse_level(version, level) is None:
            raise AuthError("users holds a level that is not an integer")
    if version.privileged_creators and any(user_id in users for user_id in room.levels.creators):
        raise AuthError("users holds a creator of the room, whose power is not to be set")


def _changes(version: RoomVersion, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[_Change]:
    """The entries whose level differs. A new value that is no level is an error, an old one counts as
    absent.
    """
    if old == new and version.integer_power_levels:
        return
    for key in {**old, **new}:
        old_level = parse_level(version, old[key]) if key in old else None
        new_level = parse_level(version, new[key]) if key in new else None
        if key in new and new_level is None:
            raise AuthError(f"the level of {key[:64]!r} is not an integer")
        if old_level != new_level:
            yield key, old_level, new_level


def _only(content: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: content[name] for name in names if name in content}


def _entries(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A map of the current power levels; one that is no map has no entries (see `PowerLevels`)."""
    entries = content.get(name)
    return entries if isinstance(entries, Mapping) else {}


def _new_entries(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    entries = content.get(name, {})
    if not isinstance(entries, Mapping):
        raise AuthError(f"{name} is not an object")
    return entries
