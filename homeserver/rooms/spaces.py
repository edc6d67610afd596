# SPDX-License-Identifier: Apache-2.0
"""The tree of rooms under a space, page by page. Client-server API, "Spaces", `GET /v1/rooms/{roomId}/hierarchy`.

Rooms are visited depth first, each once, children in the order of the specification ("Ordering of children within a
space"). The tree is walked anew for each page, a level's rooms loaded with one query, and the page token says how many
rooms were shown; so a page is right for the tree as it is now, and nothing is kept between pages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from homeserver.errors import Forbidden, InvalidParam
from homeserver.events import RoomEvent
from homeserver.events.client_format import stripped_state_event
from homeserver.rooms.engine import Room, RoomCache, RoomHead
from homeserver.rooms.summary import RoomSummaries, may_be_summarised, summary_json

DEFAULT_LIMIT = 50
MAX_LIMIT = 100
MAX_DEPTH = 20
MAX_ROOMS = 2000
"""Rooms of a tree that are looked at; the rest of a larger one is not shown."""

CHILD = "m.space.child"

_ORDER = re.compile(r"[\x20-\x7e]{1,50}")
_TOKEN = re.compile(r"([0-9]{1,6})_([0-9]{1,3})_([01])")


@dataclass(frozen=True, slots=True)
class HierarchyRequest:
    """What of the tree is asked for; `since` is a token of the page before."""

    limit: int | None = None
    max_depth: int | None = None
    suggested_only: bool = False
    since: str | None = None


class SpaceHierarchies:
    """Walks spaces."""

    def __init__(self, *, cache: RoomCache, summaries: RoomSummaries) -> None:
        self._cache = cache
        self._summaries = summaries

    async def page(self, user_id: str, room_id: str, wanted: HierarchyRequest) -> dict[str, Any]:
        """The response of the endpoint. Raises Forbidden for a space the user may not see, InvalidParam."""
        limit = min(DEFAULT_LIMIT if wanted.limit is None else wanted.limit, MAX_LIMIT)
        depth = min(MAX_DEPTH if wanted.max_depth is None else wanted.max_depth, MAX_DEPTH)
        shown = _shown_before(wanted, depth)
        elsewhere = await self._summaries.joined_rooms(user_id)
        root = await self._cache.get(room_id)
        if root is None or not may_be_summarised(root.head, user_id, elsewhere):
            raise Forbidden(f"User {user_id} may not see room {room_id}")
        rooms = await self._load(root, user_id, elsewhere, depth, wanted.suggested_only)
        order = _depth_first(room_id, rooms, depth, wanted.suggested_only)
        chosen = order[shown : shown + limit]
        body: dict[str, Any] = {
            "rooms": [_room_json(rooms[each].head, wanted.suggested_only) for each in chosen]
        }
        if shown + limit < len(order):
            body["next_batch"] = f"{shown + limit}_{depth}_{int(wanted.suggested_only)}"
        return body

    async def _load(
        self, root: Room, user_id: str, elsewhere: Set[str], depth: int, suggested_only: bool
    ) -> Mapping[str, Room]:
        """The rooms of the tree that the user may know of, level by level."""
        found = {root.room_id: root}
        level = [root]
        for _ in range(depth):
            wanted = {
                str(child.stored.state_key)
                for room in level
                for child in _children(room.head, suggested_only)
                if child.stored.state_key not in found
            }
            budget = MAX_ROOMS - len(found)
            if not wanted or budget <= 0:
                break
            loaded = await self._cache.get_many(room_ids=sorted(wanted)[:budget])
            level = [room for room in loaded.values() if may_be_summarised(room.head, user_id, elsewhere)]
            found.update((room.room_id, room) for room in level)
        return found


def _shown_before(wanted: HierarchyRequest, depth: int) -> int:
    if wanted.since is None:
        return 0
    match = _TOKEN.fullmatch(wanted.since)
    if match is None:
        raise InvalidParam("from is not a token of this endpoint")
    if (int(match[2]), match[3] == "1") != (depth, wanted.suggested_only):
        raise InvalidParam("suggested_only and max_depth cannot change on paginated requests")
    return int(match[1])


def _depth_first(root: str, rooms: Mapping[str, Room], depth: int, suggested_only: bool) -> list[str]:
    """Room ids in the order they are shown. A room that hangs in several places stands at the first."""
    order: dict[str, None] = {}
    waiting = [(root, 0)]
    while waiting:
        room_id, level = waiting.pop()
        if room_id in order or room_id not in rooms:
            continue
        order[room_id] = None
        if level < depth:
            children = _children(rooms[room_id].head, suggested_only)
            waiting.extend((str(child.stored.state_key), level + 1) for child in reversed(children))
    return list(order)


def _children(head: RoomHead, suggested_only: bool) -> list[RoomEvent]:
    """The valid children of a space in their order; a room that is no space has none."""
    if head.text("m.room.create", "type") != "m.space":
        return []
    children = [
        entry
        for (event_type, state_key), entry in head.state.items()
        if event_type == CHILD and state_key.startswith("!") and _is_valid(entry, suggested_only)
    ]
    return sorted(children, key=_place)


def _is_valid(child: RoomEvent, suggested_only: bool) -> bool:
    content = child.event.content
    via = content.get("via")
    if not isinstance(via, list) or not via:
        return False
    return not suggested_only or content.get("suggested") is True


def _place(child: RoomEvent) -> tuple[bool, str, int, str]:
    """By `order` where it is valid, those without behind; then by age, then by room id."""
    order = child.event.content.get("order")
    if not isinstance(order, str) or _ORDER.fullmatch(order) is None:
        return True, "", child.stored.origin_server_ts, str(child.stored.state_key)
    return False, order, child.stored.origin_server_ts, str(child.stored.state_key)


def _room_json(head: RoomHead, suggested_only: bool) -> dict[str, Any]:
    body = summary_json(head)
    body["children_state"] = [
        {**stripped_state_event(child.event), "origin_server_ts": child.stored.origin_server_ts}
        for child in _children(head, suggested_only)
    ]
    return body
