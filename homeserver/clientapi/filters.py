# SPDX-License-Identifier: Apache-2.0
"""Uploading and reading filters. Client-server API, "Filtering"."""

from homeserver.accounts.filters import Filters
from homeserver.clientapi.path_user import own_user_id
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route


class FilterEndpoints:
    """`/user/{userId}/filter`."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/user/{user_id}/filter", self.put),
            Route("GET", "/user/{user_id}/filter/{filter_id}", self.get),
        )

    async def put(self, request: MatrixRequest) -> Reply:
        """`POST /user/{userId}/filter`."""
        return {"filter_id": await self._filters.put(own_user_id(request), request.json_object())}

    async def get(self, request: MatrixRequest) -> Reply:
        """`GET /user/{userId}/filter/{filterId}`."""
        text = await self._filters.get(own_user_id(request), request.param("filter_id"))
        return JsonBytes(text.encode())
