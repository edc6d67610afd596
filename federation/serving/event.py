# SPDX-License-Identifier: Apache-2.0
"""`GET /_matrix/federation/v1/event/{eventId}` (server-server API, "Retrieving events")."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from homeserver.errors import NotFound
from homeserver.rooms.server_access import ServerGate
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route


class EventEndpoint:
    """See the module. `now` gives milliseconds."""

    def __init__(self, *, server_name: str, gate: ServerGate, now: Callable[[], int]) -> None:
        self._server_name = server_name
        self._gate = gate
        self._now = now

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            Route(
                "GET",
                "/event/{event_id}",
                self.get,
                under=FEDERATION_V1,
                auth=Auth.SERVER,
                resource="federation",
                limit="server_history",
            )
        ]

    async def get(self, request: MatrixRequest) -> Reply:
        """Answer with a transaction of the one event. Raises NotFound, also for what the server may not have."""
        access, stored = await self._gate.access_event(request.origin, request.param("event_id"))
        pdus = await self._gate.pdus(access, (stored,))
        if not pdus:
            raise NotFound("Event not found")
        return JsonBytes(transaction(self._server_name, self._now(), pdus))


def transaction(server_name: str, now: int, pdus: list[bytes]) -> bytes:
    """Events in the form of a transaction (server-server API, "Transactions"); `now` in milliseconds."""
    head = orjson.dumps({"origin": server_name, "origin_server_ts": now})[:-1]
    return head + b',"pdus":[' + b",".join(pdus) + b"]}"
