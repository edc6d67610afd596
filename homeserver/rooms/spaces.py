# SPDX-License-Identifier: Apache-2.0
"""The tree of rooms under a space, page by page. Client-server API, "Spaces", `GET /v1/rooms/{roomId}/hierarchy`.

Rooms are visited depth first, each once, children in the order of the specification ("Ordering of children within a
space"). The tree is walked anew for each page, a level's rooms loaded with one query, and the page token says how many
rooms were shown; so a page is right for the tree as it is now, and nothing is kept between pages.

Of rooms that this server is not in other servers tell, those that the spaces name (`via`). A space's server tells of
the rooms in it, too, so that only spaces and what is in none of the answers must be asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any

from msgspec import Struct, field

from homeserver.errors import Forbidden, InvalidParam
from homeserver.rooms.elsewhere import RemoteSummaries, RemoteTree
from homeserver.rooms.engine import Room, RoomCache, RoomHead
from homeserver.rooms.locating import LikelyServers
from homeserver.rooms.space_children import SPACE, Child, children_among, children_of
from homeserver.rooms.summary import (
    RoomSummaries,
    is_live,
    may_be_summarised,
    may_be_told,
    summary_json,
)

DEFAULT_LIMIT = 50
MAX_LIMIT = 100
MAX_DEPTH = 20
MAX_ROOMS = 2000
"""Rooms of a tree that are looked at; the rest of a larger one is not shown."""
MOST_ASKED = 50
"""Rooms of a tree that other servers are asked about."""

_TOKEN = re.compile(r"([0-9]{1,6})_([0-9]{1,3})_([01])")


class HierarchyRequest(Struct, frozen=True):
    """What of the tree is asked for; `since` is a token of the page before."""

    limit: int | None = None
    max_depth: int | None = None
    suggested_only: bool = False
    since: str | None = None


class _Node(Struct, frozen=True):
    """A room of the tree, its valid children in their order, and how it is shown."""

    children: Sequence[Child]
    shown: Callable[[], dict[str, Any]]


class SpaceHierarchies:
    """Walks spaces."""

    def __init__(
        self,
        *,
        cache: RoomCache,
        summaries: RoomSummaries,
        likely: LikelyServers,
        remote: RemoteSummaries,
        server_name: str,
    ) -> None:
        self._cache = cache
        self._summaries = summaries
        self._likely = likely
        self._remote = remote
        self._server_name = server_name

    async def page(
        self, user_id: str, room_id: str, wanted: HierarchyRequest, servers: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The response of the endpoint; `servers` may know the space.

        Raises Forbidden for a space the user may not see, InvalidParam.
        """
        limit = min(DEFAULT_LIMIT if wanted.limit is None else wanted.limit, MAX_LIMIT)
        depth = min(MAX_DEPTH if wanted.max_depth is None else wanted.max_depth, MAX_DEPTH)
        shown = _shown_before(wanted, depth)
        elsewhere = await self._summaries.joined_rooms(user_id)
        walk = _Walk(
            cache=self._cache,
            remote=self._remote,
            server_name=self._server_name,
            user_id=user_id,
            elsewhere=elsewhere,
            suggested_only=wanted.suggested_only,
        )
        if not is_live(await self._cache.get(room_id), self._server_name):
            servers = await self._likely.of(room_id, user_id, servers)
        rooms = await walk.load({room_id: servers})
        if room_id not in rooms:
            raise Forbidden(f"User {user_id} may not see room {room_id}")
        await walk.descend(rooms, depth)
        order = _depth_first(room_id, rooms, depth)
        body: dict[str, Any] = {"rooms": [rooms[each].shown() for each in order[shown : shown + limit]]}
        if shown + limit < len(order):
            body["next_batch"] = f"{shown + limit}_{depth}_{int(wanted.suggested_only)}"
        return body


class _Walk(Struct, kw_only=True):
    """One walk down a tree: what the user may know of, level by level."""

    cache: RoomCache
    remote: RemoteSummaries
    server_name: str
    user_id: str
    elsewhere: Set[str]
    """Rooms the user is joined to."""
    suggested_only: bool
    asked: int = 0
    told: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """What servers said of rooms in spaces they were asked about."""
    inaccessible: set[str] = field(default_factory=set)

    async def descend(self, found: dict[str, _Node], depth: int) -> None:
        """Add what is below the rooms found."""
        level = list(found.values())
        for _ in range(depth):
            budget = MAX_ROOMS - len(found)
            wanted: dict[str, Sequence[str]] = {}
            for child in (child for node in level for child in node.children):
                if child.room_id not in found and len(wanted) < budget:
                    wanted.setdefault(child.room_id, child.via)
            if not wanted:
                break
            loaded = await self.load(wanted)
            found.update(loaded)
            level = list(loaded.values())

    async def load(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, _Node]:
        """Those of the rooms, given with servers that may know them, that the user may know of."""
        rooms = await self.cache.get_many(room_ids=sorted(wanted))
        away = {
            room_id: servers
            for room_id, servers in wanted.items()
            if not is_live(rooms.get(room_id), self.server_name)
        }
        found = await self._elsewhere_nodes(away, rooms)
        for room_id in wanted:
            room = rooms.get(room_id)
            if room_id in found or room is None:
                continue
            if may_be_summarised(room.head, self.user_id, self.elsewhere):
                children = children_of(room.head, self.suggested_only)
                found[room_id] = _Node(children, partial(_room_json, room.head, children))
        return found

    async def _elsewhere_nodes(
        self, wanted: Mapping[str, Sequence[str]], rooms: Mapping[str, Room]
    ) -> dict[str, _Node]:
        """The nodes of rooms that this server is not in."""
        told = {each: self.told[each] for each in wanted if each in self.told}
        asked = {
            room_id: servers
            for room_id, servers in wanted.items()
            if servers
            and room_id not in self.inaccessible
            and (room_id not in told or told[room_id].get("room_type") == SPACE)
        }
        asked = dict(list(asked.items())[: MOST_ASKED - self.asked])
        self.asked += len(asked)
        trees: Mapping[str, RemoteTree] = {}
        if asked:
            trees = await self.remote.trees(asked, suggested_only=self.suggested_only)
        found: dict[str, _Node] = {}
        for room_id in wanted:
            tree = trees.get(room_id)
            summary = told.get(room_id) if tree is None else tree.summary
            room = rooms.get(room_id)
            membership = None if room is None else room.head.membership(self.user_id)
            if summary is None or not may_be_told(summary, membership, self.elsewhere):
                continue
            children: Sequence[Child] = ()
            if tree is not None:
                if summary.get("room_type") == SPACE:
                    children = children_among(tree.children_state, self.suggested_only)
                self.told.update(tree.children)
                self.inaccessible.update(tree.inaccessible)
            found[room_id] = _Node(children, partial(_shown, summary, children))
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


def _depth_first(root: str, rooms: Mapping[str, _Node], depth: int) -> list[str]:
    """Room ids in the order they are shown. A room that hangs in several places stands at the first."""
    order: dict[str, None] = {}
    waiting = [(root, 0)]
    while waiting:
        room_id, level = waiting.pop()
        if room_id in order or room_id not in rooms:
            continue
        order[room_id] = None
        if level < depth:
            waiting.extend((child.room_id, level + 1) for child in reversed(rooms[room_id].children))
    return list(order)


def _room_json(head: RoomHead, children: Sequence[Child]) -> dict[str, Any]:
    return _shown(summary_json(head), children)


def _shown(summary: Mapping[str, Any], children: Sequence[Child]) -> dict[str, Any]:
    return {**summary, "children_state": [child.stripped for child in children]}
