# SPDX-License-Identifier: Apache-2.0
"""Finding people. Client-server API, "User Directory", "Mutual Rooms" (and MSC2666's unstable path)."""

from __future__ import annotations

from homeserver.directory import MutualRooms, UserSearch
from homeserver.directory.search import DEFAULT_LIMIT
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route
from storage.user_directory import FoundUser


class SearchBody(Struct, frozen=True):
    """`POST /user_directory/search`."""

    search_term: str
    limit: int = DEFAULT_LIMIT


class UserDirectoryEndpoints:
    """`/user_directory/search`, `/mutual_rooms`."""

    def __init__(self, search: UserSearch, mutual_rooms: MutualRooms) -> None:
        self._search = search
        self._mutual_rooms = mutual_rooms

    def routes(self) -> tuple[Route, ...]:
        unstable = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"
        return (
            Route("POST", "/user_directory/search", self.search, limit="searches"),
            Route("GET", "/mutual_rooms", self.mutual, limit="searches"),
            Route("GET", unstable, self.mutual_unstable, under=("",), limit="searches"),
        )

    async def search(self, request: MatrixRequest) -> Reply:
        """`POST /user_directory/search`."""
        body = request.body(SearchBody)
        result = await self._search.search(request.requester.user_id, body.search_term, body.limit)
        return {"results": [_shown(user) for user in result.users], "limited": result.limited}

    async def mutual(self, request: MatrixRequest) -> Reply:
        """`GET /mutual_rooms`."""
        return await self._page(request, "from", "next_batch")

    async def mutual_unstable(self, request: MatrixRequest) -> Reply:
        """`GET /unstable/uk.half-shot.msc2666/user/mutual_rooms`."""
        return await self._page(request, "batch_token", "next_batch_token")

    async def _page(self, request: MatrixRequest, token: str, next_token: str) -> Reply:
        page = await self._mutual_rooms.of(
            request.requester.user_id, request.query.string("user_id", ""), request.query.string(token)
        )
        reply: dict[str, object] = {"joined": page.joined, "count": page.count}
        if page.next_batch is not None:
            reply[next_token] = page.next_batch
        return reply


def _shown(user: FoundUser) -> dict[str, str]:
    return {key: value for key, value in user._asdict().items() if value is not None}
