# SPDX-License-Identifier: Apache-2.0
"""`GET /_matrix/federation/v1/make_join/{roomId}/{userId}` (server-server API, "Joining Rooms", "Restricted rooms")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from federation.serving.offered import MEMBER
from federation.serving.restricted_joins import AUTHORISER, RestrictedJoins
from federation.serving.templates import Templates
from homeserver.rooms.engine import Draft, RoomHead
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route

_IMPLIED_VERSIONS = ("1",)
"""What a server speaks that does not say."""


class MakeJoin:
    """See the module."""

    def __init__(self, *, templates: Templates, restricted: RestrictedJoins) -> None:
        self._templates = templates
        self._restricted = restricted

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "GET",
                "/make_join/{room_id}/{user_id}",
                self.respond,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_joins",
            )
        ]

    async def respond(self, request: MatrixRequest) -> Reply:
        """Answer with the template."""
        versions = request.query.strings("ver") or _IMPLIED_VERSIONS
        return await self.make(request.origin, request.param("room_id"), request.param("user_id"), versions)

    async def make(self, origin: str, room_id: str, user_id: str, versions: Sequence[str]) -> dict[str, Any]:
        """The template of a join of a user of `origin`. Raises NotFound, Forbidden, IncompatibleRoomVersion,
        UnableToAuthoriseJoin, UnableToGrantJoin.
        """
        room = await self._templates.room(origin, room_id, user_id, versions)
        elsewhere = await self._restricted.elsewhere(room.head, user_id)

        def plan(head: RoomHead) -> Sequence[Draft]:
            content = {"membership": "join"}
            authoriser = self._restricted.authoriser(head, user_id, elsewhere)
            if authoriser is not None:
                content[AUTHORISER] = authoriser
            return (Draft(MEMBER, user_id, content, user_id),)

        return await self._templates.template(room, plan, user_id)
