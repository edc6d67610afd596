# SPDX-License-Identifier: Apache-2.0
"""The way in: parameters, token and subprotocol are judged before the upgrade, as for any request."""

from __future__ import annotations

from typing import Any, Final

from homeserver.clientapi.sync import PRESENCES, Sightings, sync_request
from homeserver.clientapi.token_watch import TokenWatch
from homeserver.clientapi.websocket.methods import Methods
from homeserver.clientapi.websocket.session import Peer, Session
from homeserver.clientapi.websocket.wire import SUBPROTOCOL, Wire, wire_factory
from homeserver.errors import InvalidParam
from homeserver.sync.long_poll import LongPoll
from homeserver.sync.wanted_filters import WantedFilters
from homeserver.web.authentication import Requester
from homeserver.web.replies import Reply, Upgrade
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route

PATH: Final = "/_matrix/client/ws/r0"
ALIASES: Final = (
    "/_matrix/client/unstable/stream",
    "/_matrix/client/r0/stream",
    "/_matrix/client/v3/stream",
)


class WebSocketEndpoints:
    """`GET /_matrix/client/ws/r0` and its aliases."""

    def __init__(
        self,
        reactor: Any,
        *,
        updates: LongPoll,
        methods: Methods,
        filters: WantedFilters,
        sightings: Sightings,
        tokens: TokenWatch,
    ) -> None:
        self._reactor = reactor
        self._factory = wire_factory(reactor)
        self._updates = updates
        self._methods = methods
        self._filters = filters
        self._sightings = sightings
        self._tokens = tokens

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", PATH, self.connect, under=("",), also=ALIASES, auth=Auth.GUEST_OK, limit="sync"),
        )

    async def connect(self, request: MatrixRequest) -> Reply:
        """Let a client in."""
        offered = [
            name.strip() for value in request.headers("Sec-WebSocket-Protocol") for name in value.split(",")
        ]
        if offered and SUBPROTOCOL not in offered:
            raise InvalidParam(f"Only the subprotocol {SUBPROTOCOL} is spoken here")
        query, requester = request.query, request.requester
        presence = query.enum("presence", PRESENCES) or query.enum("set_presence", PRESENCES, "online")
        wanted = await sync_request(query, requester.user_id, requester.device_id, self._filters)
        await self._updates.acknowledge(wanted)

        async def authenticate() -> Requester:
            return await self._tokens.authenticate(request)

        def make_session(peer: Peer) -> Session:
            return Session(
                peer=peer,
                requester=requester,
                request=wanted,
                presence=presence,
                authenticate=authenticate,
                watch=lambda callback: self._tokens.watch(request, callback),
                updates=self._updates,
                methods=self._methods,
                sightings=self._sightings,
                ending=request.shutting_down,
            )

        return Upgrade(lambda _peer: Wire(self._factory, self._reactor, make_session))
