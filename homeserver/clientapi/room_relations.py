# SPDX-License-Identifier: Apache-2.0
"""Events that relate to others. Client-server API, "Relationships API" and "Querying threads in a room"."""

from homeserver.rooms.reading.relations import RelatedEvents, RelationsQuery
from homeserver.rooms.reading.threads import RoomThreads
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route


class RoomRelationEndpoints:
    """`relations` and `threads`."""

    def __init__(self, *, related: RelatedEvents, threads: RoomThreads) -> None:
        self._related = related
        self._threads = threads

    def routes(self) -> tuple[Route, ...]:
        of_event = "/rooms/{room_id}/relations/{event_id}"
        return (
            Route("GET", of_event, self.relations, abandon=True),
            Route("GET", of_event + "/{rel_type}", self.relations, abandon=True),
            Route("GET", of_event + "/{rel_type}/{event_type}", self.relations, abandon=True),
            Route(
                "GET",
                "/rooms/{room_id}/threads",
                self.threads,
                also=("/_matrix/client/unstable/org.matrix.msc3856/rooms/{room_id}/threads",),
                abandon=True,
            ),
        )

    async def relations(self, request: MatrixRequest) -> Reply:
        """`GET /rooms/{roomId}/relations/{eventId}`, with a relation type and an event type if given."""
        query = request.query
        recurse = None
        for name in ("recurse", "org.matrix.msc3981.recurse"):
            if query.has(name):
                recurse = query.boolean(name)
                break
        asked = RelationsQuery(
            rel_type=request.param("rel_type", "") or None,
            event_type=request.param("event_type", "") or None,
            backwards=query.enum("dir", ("b", "f"), "b") == "b",
            start=query.string("from") or None,
            stop=query.string("to") or None,
            limit=query.integer("limit", minimum=0),
            recurse=recurse,
        )
        return JsonBytes(
            await self._related.page(
                request.requester, request.param("room_id"), request.param("event_id"), asked
            )
        )

    async def threads(self, request: MatrixRequest) -> Reply:
        """`GET /rooms/{roomId}/threads`."""
        query = request.query
        return JsonBytes(
            await self._threads.page(
                request.requester,
                request.param("room_id"),
                start=query.string("from") or None,
                limit=query.integer("limit", minimum=0),
                participated=query.enum("include", ("all", "participated"), "all") == "participated",
            )
        )
