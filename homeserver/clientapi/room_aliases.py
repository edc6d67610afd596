# SPDX-License-Identifier: Apache-2.0
"""Room aliases. Client-server API, "Room aliases"."""

from homeserver.errors import InvalidParam
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.locating import RoomLocator
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route


class AliasBody(Struct, frozen=True):
    """Where an alias shall point."""

    room_id: str


class RoomAliasEndpoints:
    """`/directory/room/{roomAlias}` and `/rooms/{roomId}/aliases`."""

    def __init__(self, *, aliases: Aliases, locator: RoomLocator, server_name: str) -> None:
        self._aliases = aliases
        self._locator = locator
        self._server_name = server_name

    def routes(self) -> tuple[Route, ...]:
        alias = "/directory/room/{alias}"
        return (
            Route("GET", alias, self.get, auth=Auth.NONE, limit="searches"),
            Route("PUT", alias, self.put, statuses={"M_UNKNOWN": 409}, suspended_ok=False),
            Route("DELETE", alias, self.delete, suspended_ok=False),
            Route(
                "GET",
                "/rooms/{room_id}/aliases",
                self.of_room,
                also=("/_matrix/client/unstable/org.matrix.msc2432/rooms/{room_id}/aliases",),
            ),
        )

    async def get(self, request: MatrixRequest) -> Reply:
        """`GET /directory/room/{roomAlias}`."""
        alias = request.param("alias")
        if not alias.startswith("#"):
            raise InvalidParam("Room alias invalid")
        found = await self._locator.locate(alias)
        own = [self._server_name] if domain_of(alias) == self._server_name else []
        return {"room_id": found.room_id, "servers": [*own, *found.servers]}

    async def put(self, request: MatrixRequest) -> Reply:
        """`PUT /directory/room/{roomAlias}`."""
        room_id = request.body(AliasBody).room_id
        await self._aliases.create(request.requester, request.param("alias"), room_id)
        return {}

    async def delete(self, request: MatrixRequest) -> Reply:
        """`DELETE /directory/room/{roomAlias}`."""
        await self._aliases.remove(request.requester, request.param("alias"))
        return {}

    async def of_room(self, request: MatrixRequest) -> Reply:
        """`GET /rooms/{roomId}/aliases`."""
        return {"aliases": await self._aliases.of_room(request.requester, request.param("room_id"))}
