# SPDX-License-Identifier: Apache-2.0
"""`GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`: leaving, rejecting an invite, withdrawing a knock
(server-server API, "Leaving Rooms")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from federation.serving.templates import Templates
from homeserver.rooms.engine import Draft, RoomHead
from homeserver.rooms.membership.leave import leave_plan
from homeserver.rooms.refusals import not_joined
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route


class MakeLeave:
    """See the module."""

    def __init__(self, *, templates: Templates) -> None:
        self._templates = templates

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "GET",
                "/make_leave/{room_id}/{user_id}",
                self.respond,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_joins",
            )
        ]

    async def respond(self, request: MatrixRequest) -> Reply:
        """Answer with the template."""
        return await self.make(request.origin, request.param("room_id"), request.param("user_id"))

    async def make(self, origin: str, room_id: str, user_id: str) -> dict[str, Any]:
        """The template of a leave of a user of `origin`. Raises NotFound, Forbidden."""
        room = await self._templates.room(origin, room_id, user_id)
        leave = leave_plan(user_id, {"membership": "leave"})

        def plan(head: RoomHead) -> Sequence[Draft]:
            draft = leave(head)
            if draft is None:
                raise not_joined(user_id, room_id)
            return (draft,)

        return await self._templates.template(room, plan, user_id)
