# SPDX-License-Identifier: Apache-2.0
"""The children of a space: which of its `m.space.child` events are valid, and their order.

Client-server API, "Spaces", "Ordering of children within a space". Pure, alike for spaces that are here and spaces that
another server tells of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from homeserver.events.client_format import stripped_state_event
from homeserver.protocol.identifiers import is_valid_server_name
from homeserver.rooms.engine import RoomHead

CHILD = "m.space.child"
SPACE = "m.space"
MOST_VIA = 20

_ORDER = re.compile(r"[\x20-\x7e]{1,50}")

Place = tuple[bool, str, int, str]


class Child(Struct, frozen=True):
    """A child of a space. `stripped` is its event in stripped form with `origin_server_ts`."""

    room_id: str
    stripped: Mapping[str, Any]

    @property
    def via(self) -> list[str]:
        """Servers that may know the room."""
        named = (name for name in self.stripped["content"]["via"] if isinstance(name, str))
        return [name for name in dict.fromkeys(named) if is_valid_server_name(name)][:MOST_VIA]

    @property
    def place(self) -> Place:
        """By `order` where it is valid, those without behind; then by age, then by room id."""
        order, age = self.stripped["content"].get("order"), self.stripped["origin_server_ts"]
        if not isinstance(order, str) or _ORDER.fullmatch(order) is None:
            return True, "", age, self.room_id
        return False, order, age, self.room_id


def children_of(head: RoomHead, suggested_only: bool) -> list[Child]:
    """The valid children of a space in their order; a room that is no space has none."""
    if head.text("m.room.create", "type") != SPACE:
        return []
    return children_among(
        (
            {**stripped_state_event(entry.event), "origin_server_ts": entry.stored.origin_server_ts}
            for (event_type, _), entry in head.state.items()
            if event_type == CHILD
        ),
        suggested_only,
    )


def children_among(stripped: Iterable[Mapping[str, Any]], suggested_only: bool) -> list[Child]:
    """The valid children of a space with those `m.space.child` events, in their order."""
    children = [Child(each["state_key"], each) for each in stripped if _is_valid(each, suggested_only)]
    return sorted(children, key=lambda child: child.place)


def _is_valid(stripped: Mapping[str, Any], suggested_only: bool) -> bool:
    via = stripped["content"].get("via")
    if not stripped["state_key"].startswith("!") or not isinstance(via, list) or not via:
        return False
    return not suggested_only or stripped["content"].get("suggested") is True
