# SPDX-License-Identifier: Apache-2.0
"""Summaries of rooms one is not in. Client-server API, `GET /v1/room_summary/{roomIdOrAlias}` (MSC3266).

js-sdk and Nheko know only the two unstable paths, which answer the same.
"""

from homeserver.clientapi.named_servers import named_servers
from homeserver.errors import InvalidParam
from homeserver.protocol.identifiers import is_valid_room_id
from homeserver.rooms.summary import RoomSummaries
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route

_UNSTABLE = "/_matrix/client/unstable/im.nheko.summary"


class RoomSummaryEndpoints:
    """`/room_summary`."""

    def __init__(self, summaries: RoomSummaries) -> None:
        self._summaries = summaries

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                "GET",
                "/room_summary/{room_id_or_alias}",
                self.get,
                also=(
                    f"{_UNSTABLE}/summary/{{room_id_or_alias}}",
                    f"{_UNSTABLE}/rooms/{{room_id_or_alias}}/summary",
                ),
                auth=Auth.OPTIONAL,
            ),
        )

    async def get(self, request: MatrixRequest) -> Reply:
        """`GET /room_summary/{roomIdOrAlias}`. `via` names servers to ask about a room that is not here."""
        named = request.param("room_id_or_alias")
        if not named.startswith("#") and not is_valid_room_id(named):
            raise InvalidParam("That is neither a room id nor a room alias")
        requester = request.requester_or_none
        summary = await self._summaries.summary(
            None if requester is None else requester.user_id, named, named_servers(request)
        )
        if request.path.startswith(_UNSTABLE):
            # Under its unstable name the endpoint had unstable names for two fields.
            if "room_version" in summary:
                summary["im.nheko.summary.room_version"] = summary["room_version"]
                summary["im.nheko.summary.version"] = summary["room_version"]
            if "encryption" in summary:
                summary["im.nheko.summary.encryption"] = summary["encryption"]
        return summary
