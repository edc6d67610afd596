# SPDX-License-Identifier: Apache-2.0
"""What somebody who may not (yet) read a room may know of it, and whether they may know that.

Client-server API, "Room previews" (`GET /v1/room_summary/{roomIdOrAlias}`) and the same rules in space hierarchies. A
room that may not be summarised is refused like one that does not exist.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from homeserver.errors import NotFound
from homeserver.protocol.visibility import HistoryVisibility
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.engine import RoomCache, RoomHead
from homeserver.rooms.membership.join import allowed_rooms, is_restricted
from homeserver.rooms.membership.knock import is_knockable
from homeserver.rooms.user_rooms import UserRooms


class RoomSummaries:
    """Summaries of rooms known here."""

    def __init__(self, *, cache: RoomCache, aliases: Aliases, user_rooms: UserRooms) -> None:
        self._cache = cache
        self._aliases = aliases
        self._user_rooms = user_rooms

    async def summary(self, user_id: str | None, room_id_or_alias: str) -> dict[str, Any]:
        """The response of the endpoint, for a user or (None) for anybody. Raises NotFound, InvalidParam."""
        room = await self._cache.get(await self._aliases.room_id_of(room_id_or_alias))
        if room is None or not may_be_summarised(room.head, user_id, await self.joined_rooms(user_id)):
            raise NotFound("Room not found.")
        body = summary_json(room.head)
        if user_id is not None:
            body["membership"] = room.head.membership(user_id) or "leave"
        return body

    async def joined_rooms(self, user_id: str | None) -> Set[str]:
        """The ids of the rooms a user is joined to; none for nobody."""
        if user_id is None:
            return frozenset()
        return {standing.room_id for standing in await self._user_rooms.joined(user_id)}


def may_be_summarised(head: RoomHead, user_id: str | None, elsewhere: Set[str]) -> bool:
    """Whether a user, joined to the rooms `elsewhere`, may know the room's summary."""
    if user_id is not None and head.membership(user_id) in ("join", "invite", "knock"):
        return True
    if head.join_rule == "public" or is_knockable(head):
        return True
    if head.history_visibility is HistoryVisibility.WORLD_READABLE:
        return True
    return is_restricted(head) and not elsewhere.isdisjoint(allowed_rooms(head))


def summary_json(head: RoomHead) -> dict[str, Any]:
    """`RoomSummary`: what is not set is left out."""
    known = head.summary()
    body: dict[str, Any] = {
        "room_id": head.room_id,
        "num_joined_members": known["joined_members"],
        "world_readable": known["world_readable"],
        "guest_can_join": known["guest_can_join"],
        "join_rule": known["join_rule"],
        "room_version": str(head.version),
    }
    for key in ("name", "topic", "canonical_alias", "avatar_url", "room_type", "encryption"):
        if known[key]:
            body[key] = known[key]
    if is_restricted(head):
        body["allowed_room_ids"] = allowed_rooms(head)
    return body
