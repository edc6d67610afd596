# SPDX-License-Identifier: Apache-2.0
"""Typing notifications. Client-server API, "Typing Notifications"."""

from __future__ import annotations

from collections.abc import Callable

from homeserver.typing.service import DEFAULT_TIMEOUT, Typing
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route


class TypingBody(Struct, frozen=True):
    """`PUT /rooms/{roomId}/typing/{userId}`."""

    typing: bool
    timeout: int | None = None


class TypingEndpoints:
    """`/rooms/{roomId}/typing/{userId}`."""

    def __init__(self, typing: Typing, active: Callable[[str], None]) -> None:
        """`active` is told who does something."""
        self._typing = typing
        self._active = active

    def routes(self) -> tuple[Route, ...]:
        return (Route("PUT", "/rooms/{room_id}/typing/{user_id}", self.set, limit="ephemeral"),)

    async def set(self, request: MatrixRequest) -> Reply:
        """`PUT /rooms/{roomId}/typing/{userId}`."""
        body = request.body(TypingBody)
        user_id = request.requester.user_id
        await self._typing.set(
            user_id,
            request.param("user_id"),
            request.param("room_id"),
            typing=body.typing,
            timeout_ms=DEFAULT_TIMEOUT if body.timeout is None else body.timeout,
        )
        if body.typing:
            self._active(user_id)
        return {}
