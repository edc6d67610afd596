# SPDX-License-Identifier: Apache-2.0
"""Which other servers share rooms with this one's users: those that learn of their devices, presence and profiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from homeserver.errors import NotFound
from homeserver.needs import Protocol
from homeserver.rooms.engine import RoomCache
from homeserver.rooms.user_rooms import UserRooms


class RoomHosts(Protocol):
    """What is needed of `storage.room_hosts.RoomHostStore`, for rooms that are not in memory."""

    async def now(self, rooms: Sequence[int]) -> set[str]: ...
    async def strangers(self, room: int, own: str, server: str, limit: int) -> list[str]: ...


class Neighbours:
    """One per process."""

    def __init__(
        self,
        *,
        server_name: str,
        cache: RoomCache,
        user_rooms: UserRooms,
        hosts: RoomHosts,
    ) -> None:
        """`server_name`: this server, which is never among the answers."""
        self._server_name = server_name
        self._cache = cache
        self._user_rooms = user_rooms
        self._hosts = hosts

    async def servers_of(self, user_id: str) -> set[str]:
        """The other servers that share a room with the user."""
        return await self._servers(standing.room for standing in await self._user_rooms.joined(user_id))

    async def met_in(self, user_id: str, room: int) -> set[str]:
        """The other servers in a room, by its key, that share no other room with the user."""
        others = [each.room for each in await self._user_rooms.joined(user_id) if each.room != room]
        present = await self._servers((room,))
        return present - await self._servers(others) if present else present

    async def strangers_in(self, room: int, server_name: str, limit: int) -> list[str]:
        """Users of this server in a room who share no other room with that one, up to a limit."""
        return await self._hosts.strangers(room, self._server_name, server_name, limit)

    async def servers_in(self, room_id: str) -> set[str]:
        """The other servers in a room. Raises NotFound for a room that is not known."""
        room = await self._cache.get(room_id)
        if room is None:
            raise NotFound("Unknown room")
        return await self._servers((room.key,))

    def servers_in_memory(self, room: int) -> set[str] | None:
        """As `servers_in`, by the room's key, without a query; None if the room is not in memory."""
        held = self._cache.peek_key(room)
        return None if held is None else held.head.other_hosts(self._server_name)

    async def _servers(self, rooms: Iterable[int]) -> set[str]:
        servers: set[str] = set()
        unknown: list[int] = []
        for key in rooms:
            in_memory = self.servers_in_memory(key)
            if in_memory is None:
                unknown.append(key)
            else:
                servers |= in_memory
        if unknown:
            servers |= await self._hosts.now(unknown)
        servers.discard(self._server_name)
        return servers
