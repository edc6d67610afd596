# SPDX-License-Identifier: Apache-2.0
"""`GET` and `POST /_matrix/federation/v1/publicRooms` (server-server API, "Published room directory")."""

from __future__ import annotations

from homeserver.errors import InvalidParam
from homeserver.rooms.directory import DirectoryFilter, DirectoryPage, RoomDirectory
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route


class FilterBody(Struct, frozen=True):
    """What rooms to look for."""

    generic_search_term: str | None = None
    room_types: list[str | None] | None = None


class ListBody(Struct, frozen=True):
    """The body of `POST`."""

    limit: int | None = None
    since: str | None = None
    filter: FilterBody | None = None
    include_all_networks: bool | None = None
    third_party_instance_id: str | None = None


class PublicRoomsEndpoints:
    """See the module."""

    def __init__(self, directory: RoomDirectory) -> None:
        self._directory = directory

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                method,
                "/publicRooms",
                handler,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_reads",
            )
            for method, handler in (("GET", self.list), ("POST", self.search))
        ]

    async def list(self, request: MatrixRequest) -> Reply:
        """The list, page by page."""
        query = request.query
        wanted = ListBody(
            limit=query.integer("limit"),
            since=query.string("since"),
            include_all_networks=query.boolean("include_all_networks"),
            third_party_instance_id=query.string("third_party_instance_id"),
        )
        return await self._page(wanted)

    async def search(self, request: MatrixRequest) -> Reply:
        """The same of rooms that match."""
        return await self._page(request.body(ListBody, empty_ok=True))

    async def _page(self, body: ListBody) -> Reply:
        if body.third_party_instance_id is not None:
            if body.include_all_networks:
                raise InvalidParam("third_party_instance_id and include_all_networks exclude each other")
            return DirectoryPage((), None, None, 0).as_json()  # no third-party network is bridged here
        wanted = DirectoryFilter()
        if body.filter is not None:
            wanted = DirectoryFilter(body.filter.generic_search_term, body.filter.room_types)
        limit = body.limit or None  # 0 is "no limit"
        return (await self._directory.page(wanted, limit=limit, since=body.since)).as_json()
