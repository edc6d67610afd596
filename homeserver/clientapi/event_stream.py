# SPDX-License-Identifier: Apache-2.0
"""The syncing of old, and of those who only look into a room. Client-server API, "Syncing" (deprecated endpoints),
"Getting events for a room" and "Room Previews".
"""

from homeserver.clientapi.token_watch import TokenWatch
from homeserver.errors import GuestAccessForbidden
from homeserver.rooms.reading.event_stream import EventStream
from homeserver.rooms.reading.initial_sync import InitialSync
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route

DEFAULT_TIMEOUT = 30_000
LONGEST_TIMEOUT = 120_000


class EventStreamEndpoints:
    """`events` and both `initialSync`."""

    def __init__(self, *, stream: EventStream, initial_sync: InitialSync, tokens: TokenWatch) -> None:
        self._stream = stream
        self._initial_sync = initial_sync
        self._tokens = tokens

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/events", self.events, auth=Auth.GUEST_OK, abandon=True),
            Route("GET", "/initialSync", self.of_user, abandon=True),
            Route("GET", "/rooms/{room_id}/initialSync", self.of_room, auth=Auth.GUEST_OK, abandon=True),
        )

    async def events(self, request: MatrixRequest) -> Reply:
        """`GET /events`. Guests may follow a room that is open to all, not a list of rooms of their own."""
        query = request.query
        room_id = query.string("room_id")
        if request.requester.is_guest and room_id is None:
            raise GuestAccessForbidden("Guests name the room whose events they want")
        timeout = min(query.integer("timeout", DEFAULT_TIMEOUT, minimum=0), LONGEST_TIMEOUT)
        since = query.string("from") or None
        return JsonBytes(
            await self._tokens.wait(
                request,
                lambda ending: self._stream.wait(
                    request.requester, since, timeout=timeout / 1000, room_id=room_id, ending=ending
                ),
            )
        )

    async def of_user(self, request: MatrixRequest) -> Reply:
        """`GET /initialSync`."""
        return JsonBytes(
            await self._initial_sync.of_user(
                request.requester,
                limit=request.query.integer("limit", minimum=0),
                archived=request.query.boolean("archived"),
            )
        )

    async def of_room(self, request: MatrixRequest) -> Reply:
        """`GET /rooms/{roomId}/initialSync`."""
        limit = request.query.integer("limit", minimum=0)
        return JsonBytes(await self._initial_sync.of_room(request.requester, request.param("room_id"), limit))
