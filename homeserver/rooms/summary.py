# SPDX-License-Identifier: Apache-2.0
"""What somebody who may not (yet) read a room may know of it, and whether they may know that.

Client-server API, "Room previews" (`GET /v1/room_summary/{roomIdOrAlias}`) and the same rules in space hierarchies. A
room that may not be summarised is refused like one that does not exist. Rooms that this server is not in are asked for
elsewhere, and what is told of them is shown under the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, TypeGuard

from homeserver.errors import NotFound
from homeserver.protocol.visibility import HistoryVisibility
from homeserver.rooms.elsewhere import RemoteSummaries
from homeserver.rooms.engine import Room, RoomCache, RoomHead
from homeserver.rooms.engine.head import host_of
from homeserver.rooms.locating import LikelyServers, RoomLocator
from homeserver.rooms.membership.join import allowed_rooms, is_restricted
from homeserver.rooms.membership.knock import is_knockable
from homeserver.rooms.user_rooms import UserRooms


class RoomSummaries:
    """Summaries of rooms."""

    def __init__(
        self,
        *,
        cache: RoomCache,
        locator: RoomLocator,
        likely: LikelyServers,
        user_rooms: UserRooms,
        remote: RemoteSummaries,
        server_name: str,
    ) -> None:
        self._cache = cache
        self._locator = locator
        self._likely = likely
        self._user_rooms = user_rooms
        self._remote = remote
        self._server_name = server_name

    async def summary(
        self, user_id: str | None, room_id_or_alias: str, servers: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The response of the endpoint, for a user or (None) for anybody, for whom no other server is asked.

        `servers` may know the room. Raises NotFound, InvalidParam, and what the server of an alias answers.
        """
        if (
            user_id is None
            and room_id_or_alias.startswith("#")
            and host_of(room_id_or_alias) != self._server_name
        ):
            raise NotFound("Room not found.")
        found = await self._locator.locate(room_id_or_alias, servers)
        room = await self._cache.get(found.room_id)
        elsewhere = await self.joined_rooms(user_id)
        if user_id is not None and not is_live(room, self._server_name):
            via = await self._likely.of(found.room_id, user_id, found.servers)
            tree = (await self._remote.trees({found.room_id: via})).get(found.room_id)
            membership = None if room is None else room.head.membership(user_id)
            if tree is not None and may_be_told(tree.summary, membership, elsewhere):
                return {**tree.summary, "membership": membership or "leave"}
        if room is None or not may_be_summarised(room.head, user_id, elsewhere):
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


def may_be_told(summary: Mapping[str, Any], membership: str | None, elsewhere: Set[str]) -> bool:
    """As `may_be_summarised`, by what another server says of a room; `membership` is the user's, as known here."""
    if membership in ("join", "invite", "knock") or summary.get("world_readable"):
        return True
    # Where the rule is not told the room is public ("PublishedRoomsChunk").
    rule = summary.get("join_rule", "public")
    if rule in ("public", "knock", "knock_restricted"):
        return True
    return rule == "restricted" and not elsewhere.isdisjoint(summary.get("allowed_room_ids", ()))


def may_be_summarised_to_server(head: RoomHead, server: str, hosted: Set[str]) -> bool:
    """Whether a server, in the rooms `hosted`, may know the room's summary: some user of it could join or read it.

    (server-server API, "Spaces".)
    """
    if not head.server_acl.allows(server):
        return False
    if server in head.hosts or head.join_rule == "public" or is_knockable(head):
        return True
    if head.history_visibility is HistoryVisibility.WORLD_READABLE:
        return True
    if is_restricted(head) and not hosted.isdisjoint(allowed_rooms(head)):
        return True
    return head.invited_count > 0 and any(
        member.membership == "invite" and host_of(user_id) == server
        for user_id, member in head.members.items()
    )


def is_live(room: Room | None, server_name: str) -> TypeGuard[Room]:
    """Whether this server hears what happens in the room."""
    return room is not None and room.head.is_resident(server_name)


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
