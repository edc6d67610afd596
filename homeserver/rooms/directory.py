# SPDX-License-Identifier: Apache-2.0
"""The directory of published rooms: who may put a room there, and pages of it.

Client-server API, "Listing rooms" / "Published room directory". Other servers' lists are fetched from them; no
third-party network is bridged here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from homeserver.errors import Forbidden, InvalidParam, NotFound
from homeserver.rooms.actor import Actor
from homeserver.rooms.aliases import may_set_canonical
from homeserver.rooms.elsewhere import ListWish, RemoteDirectories
from homeserver.rooms.engine import Room, RoomCache
from storage.published_rooms import ListedRoom, ListPlace, PublishedRoomStore

DEFAULT_LIMIT = 100
MAX_LIMIT = 500
MAX_TERM = 255

Publication = Literal["members", "admins", "nobody"]
"""Who may publish a room: members with the power to set its canonical alias, server admins only, or nobody."""

_TOKEN = re.compile(r"([np])([0-9]{1,9})_([0-9]{1,18})")


class DirectoryFilter(Struct, frozen=True):
    """What to look for. `room_types` None: any; None among them: rooms without a type."""

    term: str | None = None
    room_types: Sequence[str | None] | None = None


class DirectoryPage(Struct, frozen=True):
    """A page of the list; the tokens lead to its neighbours."""

    rooms: Sequence[ListedRoom]
    next_batch: str | None
    prev_batch: str | None
    total: int

    def as_json(self) -> dict[str, Any]:
        """The response of `/publicRooms`."""
        body: dict[str, Any] = {
            "chunk": [listed_room_json(room) for room in self.rooms],
            "total_room_count_estimate": self.total,
        }
        if self.next_batch is not None:
            body["next_batch"] = self.next_batch
        if self.prev_batch is not None:
            body["prev_batch"] = self.prev_batch
        return body


class RoomDirectory:
    """This server's list, and the way to others'."""

    def __init__(
        self,
        *,
        store: PublishedRoomStore,
        cache: RoomCache,
        publication: Publication,
        remote: RemoteDirectories,
    ) -> None:
        self._remote = remote
        self._store = store
        self._cache = cache
        self._publication = publication

    async def page(
        self, wanted: DirectoryFilter, *, limit: int | None = None, since: str | None = None
    ) -> DirectoryPage:
        """A page of the rooms that match, most members first. Raises InvalidParam for a token that is none."""
        limit = DEFAULT_LIMIT if limit is None else max(1, min(limit, MAX_LIMIT))
        place, backwards = _place(since)
        term = wanted.term[:MAX_TERM].strip() if wanted.term else None
        found = await self._store.page(
            term=term or None,
            room_types=wanted.room_types,
            place=place,
            backwards=backwards,
            limit=limit + 1,
        )
        more = len(found) > limit
        rooms = found[-limit:] if backwards else found[:limit]
        has_next = backwards or more
        has_previous = more if backwards else place is not None
        return DirectoryPage(
            rooms,
            _token("n", rooms[-1]) if rooms and has_next else None,
            _token("p", rooms[0]) if rooms and has_previous else None,
            await self._store.count(),
        )

    async def page_elsewhere(self, server: str, wish: ListWish) -> Mapping[str, Any]:
        """A page of another server's list, as the response of `/publicRooms`. Raises as `RemoteDirectories.page`."""
        limit = DEFAULT_LIMIT if wish.limit is None else max(1, min(wish.limit, MAX_LIMIT))
        return await self._remote.page(server, replace(wish, limit=limit))

    def check_may_publish_new(self, actor: Actor) -> None:
        """Raise Forbidden unless the user may publish the room they are about to make."""
        if self._publication == "nobody" or (self._publication == "admins" and not actor.is_admin):
            raise Forbidden("You may not publish rooms in this server's directory")

    async def is_published(self, room_id: str) -> bool:
        """Whether the room is on the list. Raises NotFound."""
        return await self._store.is_published((await self._known(room_id)).key)

    async def set_published(self, actor: Actor, room_id: str, published: bool) -> None:
        """Put a room on the list or take it off. Raises NotFound, Forbidden."""
        room = await self._known(room_id)
        if published:
            self.check_may_publish_new(actor)
        if not actor.is_admin and not may_set_canonical(room.head, actor.user_id):
            raise Forbidden("You don't have permission to change this room's place in the directory")
        if published:
            await self._store.publish(room.key)
        else:
            await self._store.withdraw(room.key)

    async def _known(self, room_id: str) -> Room:
        room = await self._cache.get(room_id)
        if room is None:
            raise NotFound("Room not found")
        return room


def listed_room_json(room: ListedRoom) -> Mapping[str, Any]:
    """`PublishedRoomsChunk`: what is not set is left out."""
    chunk: dict[str, Any] = {
        "room_id": room.room_id,
        "num_joined_members": room.joined_members,
        "world_readable": room.world_readable,
        "guest_can_join": room.guest_can_join,
        "join_rule": room.join_rule,
    }
    for key in ("name", "topic", "canonical_alias", "avatar_url", "room_type"):
        value = getattr(room, key)
        if value:
            chunk[key] = value
    return chunk


def _place(token: str | None) -> tuple[ListPlace | None, bool]:
    if not token:
        return None, False
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise InvalidParam("since is not a token of this list")
    return ListPlace(int(match[2]), int(match[3])), match[1] == "p"


def _token(direction: str, room: ListedRoom) -> str:
    return f"{direction}{room.joined_members}_{room.room}"
