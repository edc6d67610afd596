# SPDX-License-Identifier: Apache-2.0
"""Filters (client-server API, "Filtering"): read from JSON once, then asked of each event.

Owns what every field means for one event, type or room. Does not own where a filter is kept, nor the lazy loading of
members, of which only the wish is recorded here. Unknown fields are ignored, as the specification wants them to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from msgspec import Struct

from homeserver.protocol.errors import ProtocolError

DEFAULT_LIMIT = 10
MOST_EVENTS = 100
"""Limits on events per room: what is given unasked, and what is given at most."""
MOST_WILDCARDS = 100
MOST_STEPS = 1000
"""In one list of types, and in all paths of `event_fields`: both are gone through for each event that is looked at."""


class FilterError(ProtocolError):
    """A filter of the wrong shape."""

    errcode: ClassVar[str] = "M_BAD_JSON"


class TypePatterns:
    """Event types, some with `*` for any run of characters. Matching takes time linear in the type's length."""

    __slots__ = ("_exact", "_globs")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._exact: set[str] = set()
        self._globs: list[list[str]] = []
        for pattern in patterns:
            if "*" in pattern:
                self._globs.append(pattern.split("*"))
            else:
                self._exact.add(pattern)

    def __bool__(self) -> bool:
        return bool(self._exact or self._globs)

    def match(self, event_type: str) -> bool:
        """Whether any pattern covers the whole type."""
        return event_type in self._exact or any(_glob_matches(parts, event_type) for parts in self._globs)


def _glob_matches(parts: list[str], text: str) -> bool:
    """`parts` are what stands between the stars. The leftmost fit for each is as good as any other."""
    first, *middle, last = parts
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    start, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, start, end)
        if found < 0:
            return False
        start = found + len(part)
    return True


class EventFilter(Struct, frozen=True):
    """`EventFilter` of the specification; absent lists are None."""

    limit: int | None = None
    types: TypePatterns | None = None
    not_types: TypePatterns | None = None
    senders: frozenset[str] | None = None
    not_senders: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, source: Mapping[str, Any]) -> Self:
        """Read a JSON object. Raises FilterError."""
        return cls(**_event_fields(source))

    @property
    def allows_all(self) -> bool:
        """Whether nothing is left out for its type or sender."""
        return self.types is None and not self.not_types and self.senders is None and not self.not_senders

    def allows(self, event_type: str, sender: str | None) -> bool:
        """Whether an event of that type and sender passes (None: an event that has no sender)."""
        if self.not_types and self.not_types.match(event_type):
            return False
        if self.types is not None and not self.types.match(event_type):
            return False
        return sender not in self.not_senders and (self.senders is None or sender in self.senders)

    def capped(self, count: int) -> int:
        """How many of `count` events may be given."""
        return count if self.limit is None else min(count, self.limit)


class RoomEventFilter(EventFilter, frozen=True):
    """`RoomEventFilter` of the specification."""

    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    contains_url: bool | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False

    @classmethod
    def parse(cls, source: Mapping[str, Any]) -> Self:
        """Read a JSON object. Raises FilterError."""
        return cls(
            **_event_fields(source),
            rooms=_names(source, "rooms"),
            not_rooms=_names(source, "not_rooms") or frozenset(),
            contains_url=_optional(source, "contains_url", bool),
            lazy_load_members=_flag(source, "lazy_load_members"),
            include_redundant_members=_flag(source, "include_redundant_members"),
            unread_thread_notifications=_flag(source, "unread_thread_notifications"),
        )

    @property
    def selects_all(self) -> bool:
        """Whether every event of every room passes."""
        return self.allows_all and self.contains_url is None and self.rooms is None and not self.not_rooms

    def allows_room(self, room_id: str) -> bool:
        """Whether events of the room may pass."""
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)

    def allows_event(self, event_type: str, sender: str, content: Mapping[str, Any]) -> bool:
        """Whether an event passes, its room apart."""
        if self.contains_url is not None and ("url" in content) is not self.contains_url:
            return False
        return self.allows(event_type, sender)

    @property
    def page_limit(self) -> int:
        """Events per room: the limit asked for, within bounds."""
        return DEFAULT_LIMIT if self.limit is None else min(self.limit, MOST_EVENTS)


class SyncFilter(Struct, frozen=True, weakref=True):
    """A whole filter, as `/sync` takes it."""

    presence: EventFilter
    account_data: EventFilter
    rooms: frozenset[str] | None
    not_rooms: frozenset[str]
    include_leave: bool
    timeline: RoomEventFilter
    state: RoomEventFilter
    ephemeral: RoomEventFilter
    room_account_data: RoomEventFilter
    event_fields: tuple[tuple[str, ...], ...] | None
    federation_format: bool

    @classmethod
    def parse(cls, source: Any) -> Self:
        """Read a JSON object. Raises FilterError."""
        if not isinstance(source, dict):
            raise FilterError("a filter is a JSON object")
        room = _object(source, "room")
        event_format = source.get("event_format", "client")
        if event_format not in ("client", "federation"):
            raise FilterError("event_format is neither 'client' nor 'federation'")
        fields = _strings(source, "event_fields")
        if fields is not None and sum(field.count(".") + 1 for field in fields) > MOST_STEPS:
            raise FilterError(f"event_fields has more than {MOST_STEPS} steps")
        return cls(
            presence=EventFilter.parse(_object(source, "presence")),
            account_data=EventFilter.parse(_object(source, "account_data")),
            rooms=_names(room, "rooms"),
            not_rooms=_names(room, "not_rooms") or frozenset(),
            include_leave=_flag(room, "include_leave"),
            timeline=RoomEventFilter.parse(_object(room, "timeline")),
            state=RoomEventFilter.parse(_object(room, "state")),
            ephemeral=RoomEventFilter.parse(_object(room, "ephemeral")),
            room_account_data=RoomEventFilter.parse(_object(room, "account_data")),
            event_fields=None if fields is None else tuple(map(property_path, fields)),
            federation_format=event_format == "federation",
        )

    @property
    def selects_all_rooms(self) -> bool:
        """Whether no room is left out as a whole."""
        return self.rooms is None and not self.not_rooms

    def allows_room(self, room_id: str) -> bool:
        """Whether the room may appear at all."""
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)

    @property
    def reshapes_events(self) -> bool:
        """Whether events are wanted in another form than the usual one."""
        return self.federation_format or self.event_fields is not None


def property_path(text: str) -> tuple[str, ...]:
    r"""The steps of a dot-separated path, `\.` and `\\` being literal (appendices, "Dot-separated property paths")."""
    steps: list[str] = []
    step: list[str] = []
    characters = iter(text)
    for character in characters:
        if character == ".":
            steps.append("".join(step))
            step = []
        elif character == "\\":
            following = next(characters, "")
            step.append(following if following in (".", "\\") else character + following)
        else:
            step.append(character)
    steps.append("".join(step))
    return tuple(steps)


def pick_fields(event: Mapping[str, Any], paths: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """The parts of an event that the paths name; those that lead nowhere are passed over."""
    picked: dict[str, Any] = {}
    for *way, last in paths:
        source: Any = event
        for step in way:
            source = source.get(step) if isinstance(source, Mapping) else None
        if not isinstance(source, Mapping) or last not in source:
            continue
        target = picked
        for step in way:
            inner = target.get(step)
            if not isinstance(inner, dict):
                inner = target[step] = {}
            target = inner
        value = source[last]
        target[last] = dict(value) if isinstance(value, dict) else value  # a later path may add to it
    return picked


def _event_fields(source: Mapping[str, Any]) -> dict[str, Any]:
    types, not_types = _types(source, "types"), _types(source, "not_types")
    limit = _optional(source, "limit", int)
    if limit is not None and limit < 0:
        raise FilterError("limit is negative")
    return {
        "limit": limit,
        "types": None if types is None else TypePatterns(types),
        "not_types": TypePatterns(not_types) if not_types else None,
        "senders": _names(source, "senders"),
        "not_senders": _names(source, "not_senders") or frozenset(),
    }


def _types(source: Mapping[str, Any], key: str) -> list[str] | None:
    types = _strings(source, key)
    if types is not None and sum(pattern.count("*") for pattern in types) > MOST_WILDCARDS:
        raise FilterError(f"{key} has more than {MOST_WILDCARDS} wildcards")
    return types


def _object(source: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = source.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FilterError(f"{key} is not an object")
    return value


def _strings(source: Mapping[str, Any], key: str) -> list[str] | None:
    value = source.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise FilterError(f"{key} is not a list of strings")
    return value


def _names(source: Mapping[str, Any], key: str) -> frozenset[str] | None:
    strings = _strings(source, key)
    return None if strings is None else frozenset(strings)


def _optional(source: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    value = source.get(key)
    if value is None:
        return None
    if type(value) is not kind:  # a bool is no int here
        raise FilterError(f"{key} is not {'a boolean' if kind is bool else 'an integer'}")
    return value


def _flag(source: Mapping[str, Any], key: str) -> bool:
    return bool(_optional(source, key, bool))


NO_FILTER = SyncFilter.parse({})
