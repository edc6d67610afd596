# SPDX-License-Identifier: Apache-2.0
"""`GET /_matrix/federation/v1/make_knock/{roomId}/{userId}` (server-server API, "Knocking upon a room")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from federation.serving.offered import MEMBER
from federation.serving.templates import Templates
from homeserver.rooms.engine import Draft, RoomHead
from homeserver.rooms.membership.knock import check_may_knock
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route


class MakeKnock:
    """See the module."""

    def __init__(self, *, templates: Templates) -> None:
        self._templates = templates

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "GET",
                "/make_knock/{room_id}/{user_id}",
                self.respond,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_joins",
            )
        ]

    async def respond(self, request: MatrixRequest) -> Reply:
        """Answer with the template."""
        request.query.required("ver")
        versions = request.query.strings("ver")
        return await self.make(request.origin, request.param("room_id"), request.param("user_id"), versions)

    async def make(self, origin: str, room_id: str, user_id: str, versions: Sequence[str]) -> dict[str, Any]:
        """The template of a knock of a user of `origin`. Raises NotFound, Forbidden, IncompatibleRoomVersion."""
        room = await self._templates.room(origin, room_id, user_id, versions)

        def plan(head: RoomHead) -> Sequence[Draft]:
            check_may_knock(head, user_id)
            return (Draft(MEMBER, user_id, {"membership": "knock"}, user_id),)

        return await self._templates.template(room, plan, user_id)
