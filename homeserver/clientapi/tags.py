# SPDX-License-Identifier: Apache-2.0
"""Tags of rooms. Client-server API, "Room Tagging"."""

from __future__ import annotations

from homeserver.account_data.tags import Tags
from homeserver.clientapi.path_user import own_user_id
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route


class TagEndpoints:
    """`/user/{userId}/rooms/{roomId}/tags`."""

    def __init__(self, tags: Tags) -> None:
        self._tags = tags

    def routes(self) -> tuple[Route, ...]:
        template = "/user/{user_id}/rooms/{room_id}/tags"
        return (
            Route("GET", template, self.list, trailing_slash=True),
            Route("PUT", template + "/{tag}", self.put),
            Route("DELETE", template + "/{tag}", self.remove),
        )

    async def list(self, request: MatrixRequest) -> Reply:
        """`GET /user/{userId}/rooms/{roomId}/tags`."""
        return {"tags": await self._tags.of(own_user_id(request), request.param("room_id"))}

    async def put(self, request: MatrixRequest) -> Reply:
        """`PUT /user/{userId}/rooms/{roomId}/tags/{tag}`."""
        content = request.json_object(empty_ok=True)
        await self._tags.put(own_user_id(request), request.param("room_id"), request.param("tag"), content)
        return {}

    async def remove(self, request: MatrixRequest) -> Reply:
        """`DELETE /user/{userId}/rooms/{roomId}/tags/{tag}`."""
        await self._tags.remove(own_user_id(request), request.param("room_id"), request.param("tag"))
        return {}
