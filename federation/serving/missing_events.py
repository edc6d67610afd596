# SPDX-License-Identifier: Apache-2.0
"""`POST /_matrix/federation/v1/get_missing_events/{roomId}` (server-server API, "Backfilling and retrieving missing
events")."""

from __future__ import annotations

from typing import Final

from federation.serving.ancestors import Ancestors, Walk, nearest_first
from homeserver.errors import BadJson
from homeserver.protocol.identifiers import is_valid_event_id
from homeserver.rooms.server_access import ServerGate
from homeserver.web.bodies import Struct
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route

MOST_EVENTS: Final = 20
_USUAL: Final = 10
_MOST_NAMED: Final = 1000
"""Event ids in either list: a server that has been away may have many ends to tell."""
_MOST_LATEST: Final = 20
"""Of the latest ones so many are walked from, which are as many as an event may have before it."""


class MissingEventsBody(Struct, frozen=True):
    """What lies between is wanted."""

    earliest_events: list[str]
    latest_events: list[str]
    limit: int = _USUAL
    min_depth: int = 0


class MissingEventsEndpoint:
    """See the module."""

    def __init__(self, *, gate: ServerGate, ancestors: Ancestors) -> None:
        self._gate = gate
        self._ancestors = ancestors

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "POST",
                "/get_missing_events/{room_id}",
                self.post,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_history",
                max_body=256 << 10,
            )
        ]

    async def post(self, request: MatrixRequest) -> Reply:
        """The events found breadth first, parents before children; what the server may not see, redacted."""
        body = request.body(MissingEventsBody)
        if max(len(body.earliest_events), len(body.latest_events)) > _MOST_NAMED:
            raise BadJson(f"At most {_MOST_NAMED} events can be named")
        access = await self._gate.access_room(request.origin, request.param("room_id"))
        latest = [each for each in dict.fromkeys(body.latest_events) if is_valid_event_id(each)]
        walk = Walk(
            start=latest[:_MOST_LATEST],
            limit=max(0, min(body.limit, MOST_EVENTS)),
            order=nearest_first,
            stop_at=set(body.earliest_events),
            min_depth=body.min_depth,
            with_start=False,
        )
        events = await walk.run(self._ancestors, access.room.key)
        events.sort(key=lambda stored: (stored.depth, stored.position))
        pdus = await self._gate.pdus(access, events)
        return JsonBytes(b'{"events":[' + b",".join(pdus) + b"]}")
