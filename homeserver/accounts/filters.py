# SPDX-License-Identifier: Apache-2.0
"""Filters uploaded by clients: which are well-formed, and keeping them. Client-server API, "Filtering".

Owns the schema of `POST /user/{userId}/filter`. What a filter lets through is decided where events are read. Keys the
schema does not know are kept, as clients of newer versions send them.
"""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from homeserver.accounts.credentials import Clock
from homeserver.errors import BadJson, NotFound, TooLarge
from storage.filters import FilterStore

_MOST_BYTES: Final = 65_536
_ID_BYTES: Final = 16

_Check = Callable[[Any], bool]


def _all(test: _Check) -> _Check:
    return lambda value: (
        isinstance(value, list) and all(isinstance(item, str) and test(item) for item in value)
    )


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_limit(value: Any) -> bool:
    # The specification wants more than 0; clients in use send 0 for "none", which harms nobody.
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_texts: Final = _all(lambda _: True)
_users: Final = _all(lambda item: item.startswith("@"))
_rooms: Final = _all(lambda item: item.startswith("!"))

_EVENT_FILTER: Final[Mapping[str, _Check]] = {
    "limit": _is_limit,
    "senders": _users,
    "not_senders": _users,
    "types": _texts,
    "not_types": _texts,
}
_ROOM_EVENT_FILTER: Final[Mapping[str, _Check]] = {
    **_EVENT_FILTER,
    "unread_thread_notifications": _is_bool,
    "lazy_load_members": _is_bool,
    "include_redundant_members": _is_bool,
    "rooms": _rooms,
    "not_rooms": _rooms,
    "contains_url": _is_bool,
}
_ROOM_FILTER: Final[Mapping[str, _Check]] = {
    "rooms": _rooms,
    "not_rooms": _rooms,
    "include_leave": _is_bool,
}
_FILTER: Final[Mapping[str, _Check]] = {
    "event_fields": _texts,
    "event_format": lambda value: value in ("client", "federation"),
}


def check_filter(definition: Mapping[str, Any]) -> None:
    """Raise BadJson, naming the key, unless this is a filter by the specification's schema."""
    _check(definition, _FILTER, "")
    for key in ("presence", "account_data"):
        _check_part(definition, key, _EVENT_FILTER, "")
    if "room" not in definition:
        return
    room = definition["room"]
    _check_part(definition, "room", _ROOM_FILTER, "")
    for key in ("ephemeral", "state", "timeline", "account_data"):
        _check_part(room, key, _ROOM_EVENT_FILTER, "room.")


def _check_part(parent: Mapping[str, Any], key: str, schema: Mapping[str, _Check], path: str) -> None:
    if key in parent:
        if not isinstance(parent[key], dict):
            raise BadJson(f"{path}{key} must be an object")
        _check(parent[key], schema, f"{path}{key}.")


def _check(part: Mapping[str, Any], schema: Mapping[str, _Check], path: str) -> None:
    for key, is_valid in schema.items():
        if key in part and not is_valid(part[key]):
            raise BadJson(f"{path}{key} has a wrong value")


class Filters:
    """Keeps users' filters."""

    def __init__(self, filters: FilterStore, clock: Clock) -> None:
        self._filters = filters
        self._clock = clock

    async def put(self, user_id: str, definition: Mapping[str, Any]) -> str:
        """Keep a filter; the same content always has the same id. Raises BadJson, TooLarge."""
        check_filter(definition)
        text = orjson.dumps(definition, option=orjson.OPT_SORT_KEYS)
        if len(text) > _MOST_BYTES:
            raise TooLarge("The filter is too large")
        digest = hashlib.sha256(text).digest()[:_ID_BYTES]
        filter_id = urlsafe_b64encode(digest).decode().rstrip("=")
        await self._filters.put(user_id, filter_id, text.decode(), self._clock())
        return filter_id

    async def get(self, user_id: str, filter_id: str) -> str:
        """A filter's JSON text. Raises NotFound."""
        text = await self._filters.get(user_id, filter_id)
        if text is None:
            raise NotFound("No such filter")
        return text
