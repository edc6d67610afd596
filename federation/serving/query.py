# SPDX-License-Identifier: Apache-2.0
"""`GET /_matrix/federation/v1/query/{queryType}` (server-server API, "Querying for information"): profiles of this
server's users, and where its aliases lead. Other queries are unknown here."""

from __future__ import annotations

from typing import Any

from homeserver.errors import InvalidParam, NotFound, Unrecognized
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import domain_of, is_valid_user_id
from homeserver.rooms.engine import RoomCache
from homeserver.rooms.locating import hosts_of
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route


class OwnProfiles(Protocol):
    """Profiles of this server's users; `homeserver.profiles.Profiles`."""

    async def get(self, user_id: str) -> dict[str, Any]: ...

    async def get_field(self, user_id: str, key: str) -> Any: ...


class OwnAliases(Protocol):
    """Aliases of this server; `homeserver.rooms.aliases.Aliases`."""

    async def resolve(self, alias: str) -> str: ...


class QueryEndpoints:
    """See the module."""

    def __init__(
        self, *, server_name: str, profiles: OwnProfiles, aliases: OwnAliases, cache: RoomCache
    ) -> None:
        self._server_name = server_name
        self._profiles = profiles
        self._aliases = aliases
        self._cache = cache

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "GET",
                template,
                handler,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_reads",
            )
            for template, handler in (
                ("/query/profile", self.profile),
                ("/query/directory", self.directory),
                ("/query/{query_type}", self.unknown),
            )
        ]

    async def profile(self, request: MatrixRequest) -> Reply:
        """A profile, or one field of it. Raises NotFound for users and fields there are not."""
        user_id, field = request.query.required("user_id"), request.query.string("field")
        if not is_valid_user_id(user_id) or domain_of(user_id) != self._server_name:
            raise InvalidParam("That is no user of this server")
        if field is None:
            return await self._profiles.get(user_id)
        return {field: await self._profiles.get_field(user_id, field)}

    async def directory(self, request: MatrixRequest) -> Reply:
        """The room of an alias, and servers that can let somebody in, this one first if it is in the room."""
        alias = request.query.required("room_alias")
        room_id = await self._aliases.resolve(alias)
        room = await self._cache.get(room_id)
        if room is None:
            raise NotFound(f"Room alias {alias} not found.")
        own = [self._server_name] if room.head.is_resident(self._server_name) else []
        return {"room_id": room_id, "servers": [*own, *hosts_of(room.head, self._server_name)]}

    async def unknown(self, request: MatrixRequest) -> Reply:
        """Nothing."""
        raise Unrecognized("No such query")
