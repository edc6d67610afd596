# SPDX-License-Identifier: Apache-2.0
"""Events of a room's timeline. Client-server API, "Getting events for a room" and "Event Context"; one event by its id
alone, as the deprecated part of "Syncing" has it.
"""

import orjson

from homeserver.errors import NotJson
from homeserver.protocol.filters import FilterError, RoomEventFilter
from homeserver.rooms.reading.by_time import EventsByTime
from homeserver.rooms.reading.context import EventContext
from homeserver.rooms.reading.messages import NO_WISH, Messages, MessagesQuery
from homeserver.rooms.reading.single_event import SingleEvent
from homeserver.web.query import Query
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route

_DIRECTIONS = ("b", "f")


class RoomTimelineEndpoints:
    """`messages`, `context`, `event` and `timestamp_to_event`."""

    def __init__(
        self, *, messages: Messages, context: EventContext, event: SingleEvent, by_time: EventsByTime
    ) -> None:
        self._messages = messages
        self._context = context
        self._event = event
        self._by_time = by_time

    def routes(self) -> tuple[Route, ...]:
        room = "/rooms/{room_id}"
        return (
            Route("GET", room + "/messages", self.messages, auth=Auth.GUEST_OK, abandon=True),
            Route("GET", room + "/context/{event_id}", self.context, auth=Auth.GUEST_OK, abandon=True),
            Route("GET", room + "/event/{event_id}", self.event, auth=Auth.GUEST_OK, abandon=True),
            Route("GET", "/events/{event_id}", self.event_of_any_room, abandon=True),
            Route(
                "GET",
                room + "/timestamp_to_event",
                self.timestamp_to_event,
                also=("/_matrix/client/unstable/org.matrix.msc3030/rooms/{room_id}/timestamp_to_event",),
                abandon=True,
            ),
        )

    async def messages(self, request: MatrixRequest) -> Reply:
        """`GET /rooms/{roomId}/messages`."""
        query = request.query
        query.required("dir")
        asked = MessagesQuery(
            backwards=query.enum("dir", _DIRECTIONS) == "b",
            start=query.string("from") or None,
            stop=query.string("to") or None,
            limit=query.integer("limit", minimum=0),
            wish=_wish(query),
        )
        return JsonBytes(await self._messages.page(request.requester, request.param("room_id"), asked))

    async def context(self, request: MatrixRequest) -> Reply:
        """`GET /rooms/{roomId}/context/{eventId}`."""
        return JsonBytes(
            await self._context.around(
                request.requester,
                request.param("room_id"),
                request.param("event_id"),
                request.query.integer("limit", minimum=0),
                _wish(request.query),
            )
        )

    async def event(self, request: MatrixRequest) -> Reply:
        """`GET /rooms/{roomId}/event/{eventId}`."""
        return JsonBytes(
            await self._event.get(request.requester, request.param("room_id"), request.param("event_id"))
        )

    async def event_of_any_room(self, request: MatrixRequest) -> Reply:
        """`GET /events/{eventId}`."""
        return JsonBytes(await self._event.get_of_any_room(request.requester, request.param("event_id")))

    async def timestamp_to_event(self, request: MatrixRequest) -> Reply:
        """`GET /rooms/{roomId}/timestamp_to_event`."""
        query = request.query
        query.required("ts")
        query.required("dir")
        found = await self._by_time.nearest(
            request.requester.user_id,
            request.param("room_id"),
            query.integer("ts", 0),
            backwards=query.enum("dir", _DIRECTIONS) == "b",
        )
        return {"event_id": found.stored.event_id, "origin_server_ts": found.stored.origin_server_ts}


def _wish(query: Query) -> RoomEventFilter:
    """The `filter` parameter. Raises NotJson, FilterError."""
    text = query.string("filter")
    if not text:
        return NO_WISH
    try:
        source = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NotJson("The filter is not valid JSON") from error
    if not isinstance(source, dict):
        raise FilterError("a filter is a JSON object")
    return RoomEventFilter.parse(source)
