# SPDX-License-Identifier: Apache-2.0
"""Presence. Client-server API, "Presence"."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from homeserver.presence.service import Presence
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route


class PresenceBody(Struct, frozen=True):
    """`PUT /presence/{userId}/status`."""

    presence: str
    status_msg: str | UnsetType | None = UNSET


class PresenceEndpoints:
    """`/presence/{userId}/status`."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/presence/{user_id}/status", self.get),
            Route("PUT", "/presence/{user_id}/status", self.put, limit="ephemeral"),
        )

    async def get(self, request: MatrixRequest) -> Reply:
        """`GET /presence/{userId}/status`."""
        return await self._presence.get(request.requester.user_id, request.param("user_id"))

    async def put(self, request: MatrixRequest) -> Reply:
        """`PUT /presence/{userId}/status`."""
        body = request.body(PresenceBody)
        unset = isinstance(body.status_msg, UnsetType)
        await self._presence.put(
            request.requester.user_id,
            request.param("user_id"),
            request.requester.device_id,
            body.presence,
            None if isinstance(body.status_msg, UnsetType) else body.status_msg,
            keep_status=unset,
        )
        return {}
