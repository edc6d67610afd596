# SPDX-License-Identifier: Apache-2.0
"""The conditions of push rules, compiled (client-server API, "Push Rules", "Conditions").

Owns what each kind means. A condition of an unknown kind, or whose parameters make no sense, never matches.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from homeserver.needs import Protocol
from homeserver.protocol.power_levels import PowerLevels
from homeserver.protocol.push_rules.event_view import EventView, Path, parse_path
from homeserver.protocol.push_rules.globs import Glob

BODY: Final[Path] = ("content", "body")
MAX_STEPS: Final = 1_000_000
"""Characters that patterns are run over, and items of arrays, for one user and one event, about a tenth of a second:
hundreds of patterns on the longest of messages. What is beyond matches nothing, so that a user's rules cannot hold up
the server."""


class _OwnUserId(str):
    """See `OWN_USER_ID`."""

    __slots__ = ()


#: Stands for the user's id in default rules; known by identity, so that no string of a client can be it.
OWN_USER_ID: Final = _OwnUserId("[the user's Matrix ID]")


class RoomFacts(Struct, frozen=True):
    """What conditions ask of the room."""

    member_count: int
    """Joined members."""
    power_levels: PowerLevels


class Reader:
    """What conditions ask of the user whose rules they are. For one event after the other, one user."""

    __slots__ = ("display_name", "spent", "steps", "user_id")

    def __init__(self, user_id: str, display_name: str | None = None) -> None:
        """`display_name` in the room."""
        self.user_id = user_id
        self.display_name = Glob(display_name, literal=True) if display_name else None
        self.steps = MAX_STEPS
        """What is left of MAX_STEPS for the present event."""
        self.spent = 0
        """Steps taken for all events so far; whoever asks of many resets it."""


class Condition(Protocol):
    """One condition. `personal`: whether it depends on the user."""

    @property
    def personal(self) -> bool: ...

    def holds(self, event: EventView, room: RoomFacts, reader: Reader) -> bool: ...


def _found(glob: Glob, text: str, reader: Reader) -> bool:
    """Whether the pattern occurs in a body, within the steps the reader has left."""
    if not glob.may_match(text):
        return False
    reader.steps -= len(text)
    return reader.steps >= 0 and glob.occurs_in(text)


class EventMatch:
    """`event_match`: a glob on a string property; on `content.body`, at word boundaries within it."""

    __slots__ = ("glob", "path")
    personal = False

    def __init__(self, path: Path, pattern: str) -> None:
        self.path = path
        self.glob = Glob(pattern)

    def holds(self, event: EventView, _room: RoomFacts, reader: Reader) -> bool:
        text = event.text(self.path)
        if text is None:
            return False
        if self.path == BODY:
            return _found(self.glob, text, reader)
        if self.glob.plain is None:
            reader.steps -= len(text)
            return reader.steps >= 0 and self.glob.matches(text)
        return self.glob.matches(text)


class OwnIdMatch(Struct, frozen=True):
    """`event_match` with the user's own id for a pattern."""

    path: Path
    personal = True

    def holds(self, event: EventView, _room: RoomFacts, reader: Reader) -> bool:
        return event.value(self.path) == reader.user_id


class PropertyIs(Struct, frozen=True):
    """`event_property_is`: the property is exactly the value."""

    path: Path
    value: object
    personal = False

    def holds(self, event: EventView, _room: RoomFacts, _reader: Reader) -> bool:
        return _same(event.value(self.path), self.value)


class PropertyContains(Struct, frozen=True):
    """`event_property_contains`: the property is an array with the value in it."""

    path: Path
    value: object
    personal = False

    def holds(self, event: EventView, _room: RoomFacts, reader: Reader) -> bool:
        found = event.value(self.path)
        if not isinstance(found, list | tuple):
            return False
        reader.steps -= len(found)
        return reader.steps >= 0 and any(_same(item, self.value) for item in found)


class ContainsOwnId(Struct, frozen=True):
    """`event_property_contains` of the user's own id."""

    path: Path
    personal = True

    def holds(self, event: EventView, _room: RoomFacts, reader: Reader) -> bool:
        found = event.value(self.path)
        return isinstance(found, list | tuple) and reader.user_id in found

    def holds_for_nobody(self, event: EventView) -> bool:
        """Whether it holds for no user at all, as for most events: they mention nobody."""
        found = event.value(self.path)
        return not found or not isinstance(found, list | tuple)


class ContainsDisplayName:
    """`contains_display_name`: the body has the user's name in it, as words."""

    __slots__ = ()
    personal = True

    def holds(self, event: EventView, _room: RoomFacts, reader: Reader) -> bool:
        text = event.text(BODY)
        return (
            text is not None and reader.display_name is not None and _found(reader.display_name, text, reader)
        )


class RoomMemberCount(Struct, frozen=True):
    """`room_member_count`: how many are joined."""

    compare: Callable[[int, int], bool]
    count: int
    personal = False

    def holds(self, _event: EventView, room: RoomFacts, _reader: Reader) -> bool:
        return self.compare(room.member_count, self.count)


class SenderNotificationPermission(Struct, frozen=True):
    """`sender_notification_permission`: the sender's power level suffices to notify so."""

    key: str
    personal = False

    def holds(self, event: EventView, room: RoomFacts, _reader: Reader) -> bool:
        levels = room.power_levels
        return levels.user_level(event.sender) >= levels.notification_level(self.key)


class Never:
    """A condition that makes no sense to this server."""

    __slots__ = ()
    personal = False

    def holds(self, _event: EventView, _room: RoomFacts, _reader: Reader) -> bool:
        return False


NEVER: Final = Never()
_SCALARS: Final = (str, bool, int, type(None))
_COUNT: Final = re.compile(r"(==|<=|>=|<|>)?([0-9]{1,16})")
_COMPARISONS: Final[Mapping[str | None, Callable[[int, int], bool]]] = {
    None: operator.eq,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def _same(found: object, value: object) -> bool:
    """Equal and of one type: true is not 1. Only scalars of canonical JSON are ever equal here."""
    return type(found) is type(value) and found == value


def compile_condition(condition: Mapping[str, Any]) -> Condition:
    """A condition as it is written in a rule."""
    kind = condition.get("kind")
    compiler = _COMPILERS.get(kind) if isinstance(kind, str) else None
    return NEVER if compiler is None else compiler(condition)


def _event_match(condition: Mapping[str, Any]) -> Condition:
    key, pattern = condition.get("key"), condition.get("pattern")
    if not isinstance(key, str) or not isinstance(pattern, str):
        return NEVER
    path = parse_path(key)
    return OwnIdMatch(path) if pattern is OWN_USER_ID else EventMatch(path, pattern)


def _property_is(condition: Mapping[str, Any]) -> Condition:
    key = condition.get("key")
    if not isinstance(key, str) or "value" not in condition or type(condition["value"]) not in _SCALARS:
        return NEVER
    return PropertyIs(parse_path(key), condition["value"])


def _property_contains(condition: Mapping[str, Any]) -> Condition:
    key = condition.get("key")
    if not isinstance(key, str) or "value" not in condition:
        return NEVER
    value = condition["value"]
    if value is OWN_USER_ID:
        return ContainsOwnId(parse_path(key))
    return PropertyContains(parse_path(key), value) if type(value) in _SCALARS else NEVER


def _room_member_count(condition: Mapping[str, Any]) -> Condition:
    expression = condition.get("is")
    match = _COUNT.fullmatch(expression) if isinstance(expression, str) else None
    return NEVER if match is None else RoomMemberCount(_COMPARISONS[match[1]], int(match[2]))


def _sender_notification_permission(condition: Mapping[str, Any]) -> Condition:
    key = condition.get("key")
    return SenderNotificationPermission(key) if isinstance(key, str) else NEVER


_COMPILERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Condition]]] = {
    "event_match": _event_match,
    "event_property_is": _property_is,
    "event_property_contains": _property_contains,
    "contains_display_name": lambda _condition: ContainsDisplayName(),
    "room_member_count": _room_member_count,
    "sender_notification_permission": _sender_notification_permission,
}
