# SPDX-License-Identifier: Apache-2.0
"""`GET /_matrix/federation/v1/hierarchy/{roomId}` (server-server API, "Spaces"): a room and, if it is a space, the
rooms in it, as far as the server that asks could see them.

Servers ask it of rooms that are no spaces, too, for their users' previews (MSC3266).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Set
from typing import Any, Final

from homeserver.errors import NotFound
from homeserver.needs import Protocol
from homeserver.rooms.engine import RoomCache, RoomHead
from homeserver.rooms.membership.join import allowed_rooms, is_restricted
from homeserver.rooms.space_children import children_of
from homeserver.rooms.summary import is_live, may_be_summarised_to_server, summary_json
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route

MOST_CHILDREN: Final = 100
"""Rooms in a space of which summaries are given: each has to be in memory. Who asks can ask for the others."""
_MOST_ALLOWED: Final = 1000


class HostedRooms(Protocol):
    """`storage.server_memberships.ServerMembershipStore`, as far as it is used here."""

    async def resident_rooms(
        self, room_ids: Collection[str], server_name: str, user_id: str
    ) -> dict[str, bool]: ...


class HierarchyEndpoint:
    """See the module."""

    def __init__(
        self,
        *,
        server_name: str,
        cache: RoomCache,
        hosted: HostedRooms,
        breathe: Callable[[], Awaitable[object]],
    ) -> None:
        self._server_name = server_name
        self._cache = cache
        self._hosted = hosted
        self._breathe = breathe

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "GET",
                "/hierarchy/{room_id}",
                self.get,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_reads",
                abandon=True,
            )
        ]

    async def get(self, request: MatrixRequest) -> Reply:
        """The room and its children. Raises NotFound for a room that the server could neither read nor join, in the
        same words as for one that there is not.
        """
        origin, suggested_only = request.origin, request.query.boolean("suggested_only")
        room = await self._cache.get(request.param("room_id"))
        if not is_live(room, self._server_name):
            raise NotFound("Room not found")
        hosted = await self._hosted_among(origin, (room.head,))
        if not may_be_summarised_to_server(room.head, origin, hosted):
            raise NotFound("Room not found")
        listed = children_of(room.head, suggested_only)
        children, inaccessible = await self._children(
            origin, {child.room_id for child in listed[:MOST_CHILDREN]}
        )
        return {
            "room": {**summary_json(room.head), "children_state": [child.stripped for child in listed]},
            "children": children,
            "inaccessible_children": inaccessible,
        }

    async def _children(self, origin: str, room_ids: Set[str]) -> tuple[list[dict[str, Any]], list[str]]:
        """Summaries of those that the server may know, and the ids of those it may not; of rooms that this server is
        not in, nothing."""
        rooms = await self._cache.get_many(room_ids=sorted(room_ids))
        heads = [room.head for room in rooms.values() if is_live(room, self._server_name)]
        hosted = await self._hosted_among(origin, heads)
        children: list[dict[str, Any]] = []
        inaccessible: list[str] = []
        for head in heads:
            if may_be_summarised_to_server(head, origin, hosted):
                children.append(summary_json(head))
            else:
                inaccessible.append(head.room_id)
            await self._breathe()
        return children, inaccessible

    async def _hosted_among(self, origin: str, heads: Iterable[RoomHead]) -> Set[str]:
        """Of the rooms whose members may join any of those, the ones that the server is in."""
        allowed = {room_id for head in heads if is_restricted(head) for room_id in allowed_rooms(head)}
        return (await self._hosted.resident_rooms(sorted(allowed)[:_MOST_ALLOWED], origin, "")).keys()
