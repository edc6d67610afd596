# SPDX-License-Identifier: Apache-2.0
"""Spaces. Client-server API, "Spaces", "Server behaviour"."""

from homeserver.clientapi.named_servers import named_servers
from homeserver.rooms.spaces import HierarchyRequest, SpaceHierarchies
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route


class SpaceEndpoints:
    """`/rooms/{roomId}/hierarchy`."""

    def __init__(self, spaces: SpaceHierarchies) -> None:
        self._spaces = spaces

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                "GET",
                "/rooms/{room_id}/hierarchy",
                self.hierarchy,
                also=("/_matrix/client/unstable/org.matrix.msc2946/rooms/{room_id}/hierarchy",),
                limit="searches",
            ),
        )

    async def hierarchy(self, request: MatrixRequest) -> Reply:
        """`GET /rooms/{roomId}/hierarchy`."""
        query = request.query
        wanted = HierarchyRequest(
            limit=query.integer("limit", minimum=1),
            max_depth=query.integer("max_depth", minimum=0),
            suggested_only=query.boolean("suggested_only"),
            since=query.string("from"),
        )
        return await self._spaces.page(
            request.requester.user_id, request.param("room_id"), wanted, named_servers(request)
        )
