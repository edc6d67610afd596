# SPDX-License-Identifier: Apache-2.0
"""What of another server's words is passed on to clients: fields of the types that the specification gives them.

A field of another type is left out, a room without a good id altogether: clients trust their server for that. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from homeserver.profiles.fields import (
    AVATAR_URL,
    DISPLAYNAME,
    MAX_DISPLAYNAME,
    MAX_KEY_BYTES,
    MAX_PROFILE_BYTES,
)
from homeserver.protocol.identifiers import is_valid_mxc_uri, is_valid_room_id, is_valid_user_id

MOST_CHILDREN: Final = 1000
_MOST_ALLOWED: Final = 1000
_LONGEST: Final = 65_536
_LARGEST_INTEGER: Final = 2**53 - 1
_TEXTS: Final = ("name", "topic", "canonical_alias", "join_rule", "room_type", "encryption", "room_version")
_UNSTABLE: Final = {
    "room_version": ("im.nheko.summary.room_version", "im.nheko.summary.version"),
    "encryption": ("im.nheko.summary.encryption",),
}


def profile(answer: Mapping[str, Any]) -> dict[str, Any]:
    """A profile: what is null, malformed or beyond the limit of a profile is as good as not set."""
    shown: dict[str, Any] = {}
    left = MAX_PROFILE_BYTES
    # The two that rooms show come first, so that no other field takes their place.
    for key in sorted(answer, key=lambda key: key not in {DISPLAYNAME, AVATAR_URL}):
        value = answer[key]
        if value is None or not 0 < len(key.encode(errors="replace")) <= MAX_KEY_BYTES:
            continue
        if key == DISPLAYNAME and not (isinstance(value, str) and len(value) <= MAX_DISPLAYNAME):
            continue
        if key == AVATAR_URL and not (isinstance(value, str) and is_valid_mxc_uri(value)):
            continue
        size = encoded_size({key: value})
        if size is not None and size <= left:
            left -= size
            shown[key] = value
    return shown


def summary(answer: Mapping[str, Any]) -> dict[str, Any] | None:
    """`RoomSummary`, which has all of `PublishedRoomsChunk`; None without a room id."""
    room_id = answer.get("room_id")
    if not isinstance(room_id, str) or not is_valid_room_id(room_id):
        return None
    shown: dict[str, Any] = {
        "room_id": room_id,
        "num_joined_members": _count(answer.get("num_joined_members")),
        "world_readable": answer.get("world_readable") is True,
        "guest_can_join": answer.get("guest_can_join") is True,
    }
    for key in _TEXTS:
        for name in (key, *_UNSTABLE.get(key, ())):
            value = answer.get(name)
            if isinstance(value, str) and value and len(value) <= _LONGEST:
                shown.setdefault(key, value)
    avatar = answer.get("avatar_url")
    if isinstance(avatar, str) and is_valid_mxc_uri(avatar):
        shown["avatar_url"] = avatar
    allowed = answer.get("allowed_room_ids")
    if isinstance(allowed, list):
        ids = [each for each in allowed[:_MOST_ALLOWED] if isinstance(each, str) and is_valid_room_id(each)]
        shown["allowed_room_ids"] = ids
    return shown if encoded_size(shown) is not None else None


def children_state(answer: object) -> list[dict[str, Any]]:
    """The `m.space.child` events of a space in stripped form."""
    if not isinstance(answer, list):
        return []
    found = (_child(each) for each in answer[:MOST_CHILDREN])
    return [each for each in found if each is not None]


def _child(answer: object) -> dict[str, Any] | None:
    if not isinstance(answer, dict) or answer.get("type") != "m.space.child":
        return None
    child = {key: answer.get(key) for key in ("type", "state_key", "content", "sender", "origin_server_ts")}
    room_id, sender, age = child["state_key"], child["sender"], child["origin_server_ts"]
    if (
        not isinstance(room_id, str)
        or not is_valid_room_id(room_id)
        or not isinstance(child["content"], dict)
    ):
        return None
    if not isinstance(sender, str) or not is_valid_user_id(sender) or type(age) is not int:
        return None
    size = encoded_size(child)
    return child if abs(age) <= _LARGEST_INTEGER and size is not None and size <= _LONGEST else None


def rooms(answer: Sequence[Mapping[str, Any]], most: int) -> list[dict[str, Any]]:
    """Summaries of rooms, each once."""
    found: dict[str, dict[str, Any]] = {}
    for each in answer:
        shown = summary(each)
        if shown is not None and len(found) < most:
            found.setdefault(shown["room_id"], shown)
    return list(found.values())


def token(answer: object) -> str | None:
    """A token of a list; None if there is none that a client could bring back."""
    return answer if isinstance(answer, str) and 0 < len(answer) <= 1000 and encoded_size(answer) else None


def count(answer: object) -> int | None:
    """A number of things."""
    return answer if type(answer) is int and 0 <= answer <= _LARGEST_INTEGER else None


def _count(answer: object) -> int:
    return count(answer) or 0


def encoded_size(value: object) -> int | None:
    """How long the value is as JSON; None if it cannot be told to clients: integers beyond 64 bits, half characters."""
    try:
        return len(orjson.dumps(value))
    except (TypeError, orjson.JSONEncodeError):
        return None
