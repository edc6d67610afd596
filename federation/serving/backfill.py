# SPDX-License-Identifier: Apache-2.0
"""`GET /_matrix/federation/v1/backfill/{roomId}` (server-server API, "Backfilling and retrieving missing events")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from federation.serving.ancestors import Ancestors, Walk, newest_first
from federation.serving.event import transaction
from homeserver.errors import InvalidParam, MissingParam
from homeserver.rooms.server_access import ServerGate
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route

MOST_EVENTS: Final = 100
_MOST_NAMED: Final = 100


class BackfillEndpoint:
    """See the module. `now` gives milliseconds."""

    def __init__(
        self, *, server_name: str, gate: ServerGate, ancestors: Ancestors, now: Callable[[], int]
    ) -> None:
        self._server_name = server_name
        self._gate = gate
        self._ancestors = ancestors
        self._now = now

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "GET",
                "/backfill/{room_id}",
                self.get,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_history",
            )
        ]

    async def get(self, request: MatrixRequest) -> Reply:
        """The events named and those before them, the newest first; what the server may not see, redacted."""
        start = list(dict.fromkeys(request.query.strings("v")))
        if not start:
            raise MissingParam("Missing query parameter v")
        if len(start) > _MOST_NAMED:
            raise InvalidParam(f"At most {_MOST_NAMED} events can be named")
        limit = request.query.integer("limit")
        if limit is None:
            raise MissingParam("Missing query parameter limit")
        limit = max(0, min(limit, MOST_EVENTS))
        access = await self._gate.access_room(request.origin, request.param("room_id"))
        walk = Walk(start=start, limit=limit, order=newest_first, with_start=True)
        events = await walk.run(self._ancestors, access.room.key)
        pdus = await self._gate.pdus(access, events)
        return JsonBytes(transaction(self._server_name, self._now(), pdus))
