# SPDX-License-Identifier: Apache-2.0
"""`GET /_matrix/federation/v1/timestamp_to_event/{roomId}` (server-server API, "Retrieving events"; MSC3030)."""

from __future__ import annotations

from typing import Final

from homeserver.errors import MissingParam, NotFound
from homeserver.rooms.server_access import ServerGate
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route
from storage.timelines import TimelineStore

_BATCH: Final = 100
_BATCHES: Final = 10
"""Events that the server may not see are passed over, but not for ever."""
_FAR: Final = 2**62


class TimestampToEventEndpoint:
    """See the module."""

    def __init__(self, *, gate: ServerGate, timelines: TimelineStore) -> None:
        self._gate = gate
        self._timelines = timelines

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "GET",
                "/timestamp_to_event/{room_id}",
                self.get,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_history",
            )
        ]

    async def get(self, request: MatrixRequest) -> Reply:
        """The nearest event that the server may see. Raises NotFound, Forbidden."""
        timestamp, direction = request.query.integer("ts"), request.query.enum("dir", ("f", "b"))
        if timestamp is None or direction is None:
            raise MissingParam("ts and dir are required")
        access = await self._gate.access_room(request.origin, request.param("room_id"))
        backwards = direction == "b"
        at, position, limit = timestamp, _FAR if backwards else -_FAR, 1
        for _ in range(_BATCHES):
            events = await self._timelines.nearest(
                access.room.key, at, position, backwards=backwards, limit=limit
            )
            for stored, visible in zip(events, await self._gate.visible(access, events), strict=True):
                if visible:
                    return {"event_id": stored.event_id, "origin_server_ts": stored.origin_server_ts}
            if len(events) < limit:
                break
            at, position = events[-1].origin_server_ts, events[-1].position + (-1 if backwards else 1)
            limit = _BATCH
        raise NotFound(f"Unable to find event from {timestamp} in that direction")
