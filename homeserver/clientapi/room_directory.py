# SPDX-License-Identifier: Apache-2.0
"""The list of published rooms. Client-server API, "Published room directory"."""

from typing import Literal

from homeserver.errors import InvalidParam, MissingToken
from homeserver.rooms.directory import DirectoryFilter, DirectoryPage, RoomDirectory
from homeserver.rooms.elsewhere import ListWish
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route


class VisibilityBody(Struct, frozen=True):
    """Whether a room shall be on the list."""

    visibility: Literal["public", "private"] = "public"


class FilterBody(Struct, frozen=True):
    """What rooms to look for."""

    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


class ListBody(Struct, frozen=True):
    """The body of `POST /publicRooms`."""

    limit: int | None = None
    since: str | None = None
    filter: FilterBody | None = None
    include_all_networks: bool | None = None
    third_party_instance_id: str | None = None


class RoomDirectoryEndpoints:
    """`/publicRooms` and `/directory/list/room/{roomId}`."""

    def __init__(self, *, directory: RoomDirectory, server_name: str) -> None:
        self._directory = directory
        self._server_name = server_name

    def routes(self) -> tuple[Route, ...]:
        room = "/directory/list/room/{room_id}"
        return (
            Route("GET", "/publicRooms", self.list, auth=Auth.OPTIONAL, limit="searches"),
            Route("POST", "/publicRooms", self.search, auth=Auth.GUEST_OK, limit="searches"),
            Route("GET", room, self.get, auth=Auth.NONE),
            Route("PUT", room, self.put, suspended_ok=False),
        )

    async def list(self, request: MatrixRequest) -> Reply:
        """`GET /publicRooms`."""
        limit, since = request.query.integer("limit"), request.query.string("since")
        server = self._other_server(request)
        if server is not None:
            if request.requester_or_none is None:  # nobody unknown makes this server ask others
                raise MissingToken
            return await self._directory.page_elsewhere(server, ListWish(limit=limit, since=since))
        return (await self._directory.page(DirectoryFilter(), limit=limit, since=since)).as_json()

    async def search(self, request: MatrixRequest) -> Reply:
        """`POST /publicRooms`."""
        body = request.body(ListBody, empty_ok=True)
        server = self._other_server(request)
        if server is not None:
            return await self._directory.page_elsewhere(server, _wish(body))
        if body.third_party_instance_id is not None:
            if body.include_all_networks:
                raise InvalidParam("third_party_instance_id and include_all_networks exclude each other")
            return DirectoryPage((), None, None, 0).as_json()  # no third-party network is bridged here
        wanted = DirectoryFilter()
        if body.filter is not None:
            wanted = DirectoryFilter(body.filter.generic_search_term, body.filter.room_types)
        return (await self._directory.page(wanted, limit=body.limit, since=body.since)).as_json()

    async def get(self, request: MatrixRequest) -> Reply:
        """`GET /directory/list/room/{roomId}`."""
        published = await self._directory.is_published(request.param("room_id"))
        return {"visibility": "public" if published else "private"}

    async def put(self, request: MatrixRequest) -> Reply:
        """`PUT /directory/list/room/{roomId}`."""
        body = request.body(VisibilityBody, empty_ok=True)
        await self._directory.set_published(
            request.requester, request.param("room_id"), body.visibility == "public"
        )
        return {}

    def _other_server(self, request: MatrixRequest) -> str | None:
        """Whose list is asked for; None for this server's."""
        server = request.query.string("server")
        return server if server and server != self._server_name else None


def _wish(body: ListBody) -> ListWish:
    if body.third_party_instance_id is not None and body.include_all_networks:
        raise InvalidParam("third_party_instance_id and include_all_networks exclude each other")
    return ListWish(
        term=None if body.filter is None else body.filter.generic_search_term,
        room_types=None if body.filter is None else body.filter.room_types,
        limit=body.limit,
        since=body.since,
        include_all_networks=bool(body.include_all_networks),
        third_party_instance_id=body.third_party_instance_id,
    )
