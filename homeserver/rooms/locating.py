# SPDX-License-Identifier: Apache-2.0
"""Finding rooms, and servers that can let somebody in: by alias, by what the client says, by what is known here."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest

from homeserver.protocol.identifiers import domain_of
from homeserver.rooms.aliases import Aliases, check_alias
from homeserver.rooms.engine import RoomEngine, RoomHead
from homeserver.rooms.remote import FoundRoom, RemoteRooms
from homeserver.rooms.user_rooms import UserRooms

MOST_FORMER_HOSTS = 10


class RoomLocator:
    """Resolves what a client names."""

    def __init__(self, *, aliases: Aliases, remote: RemoteRooms, server_name: str) -> None:
        self._aliases = aliases
        self._remote = remote
        self._server_name = server_name

    async def locate(self, room_id_or_alias: str, servers: Sequence[str] = ()) -> FoundRoom:
        """The room, and the servers to ask about it: those the client names, then those the alias's server names.

        Raises InvalidParam, NotFound, RemoteServerFailed.
        """
        if not room_id_or_alias.startswith("#"):
            return FoundRoom(room_id_or_alias, servers)
        check_alias(room_id_or_alias)
        if domain_of(room_id_or_alias) == self._server_name:
            return FoundRoom(await self._aliases.resolve(room_id_or_alias), servers)
        found = await self._remote.resolve_alias(room_id_or_alias)
        return FoundRoom(found.room_id, [*servers, *found.servers])


class LikelyServers:
    """Knows which servers may be in a room that this server is not in."""

    def __init__(self, *, engine: RoomEngine, user_rooms: UserRooms) -> None:
        self._engine = engine
        self._user_rooms = user_rooms

    async def of(self, room_id: str, user_id: str, named: Sequence[str] = ()) -> list[str]:
        """Those to ask on behalf of a user, the likeliest first: whoever invited them knows the room best."""
        room = await self._engine.cache.get(room_id)
        found: list[str] = []
        if room is not None:
            standing = (await self._user_rooms.of(user_id)).get(room.key)
            if standing is not None and standing.membership == "invite":
                found.append(domain_of(standing.sender))
        found.extend(named)
        if room is not None:
            found.extend(hosts_of(room.head, self._engine.server_name))
        if ":" in room_id:
            found.append(domain_of(room_id))
        return [name for name in dict.fromkeys(found) if name != self._engine.server_name]


def hosts_of(head: RoomHead, own: str) -> list[str]:
    """Other servers that are, or were when it was known, in the room, those with most members first."""
    likeliest = nlargest(
        MOST_FORMER_HOSTS, head.other_hosts(own), key=lambda name: (head.hosts.get(name, 0), name)
    )
    create = head.state_event("m.room.create")
    founder = [] if create is None else [domain_of(create.stored.sender)]
    return [name for name in dict.fromkeys([*likeliest, *founder]) if name != own]
