# SPDX-License-Identifier: Apache-2.0
"""The way in: parameters, token and subprotocol are judged before the upgrade, as for any request."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from time import time
from typing import Any, Final

from twisted.internet.threads import deferToThread

from homeserver.clientapi.sync import PRESENCES, Sightings, SyncParameters
from homeserver.clientapi.token_watch import TokenWatch, WatchedToken
from homeserver.clientapi.websocket.frames import SUBPROTOCOL
from homeserver.clientapi.websocket.methods import Methods
from homeserver.clientapi.websocket.session import Peer, Session
from homeserver.errors import InvalidParam
from homeserver.stream.places import refusal
from homeserver.sync.long_poll import LongPoll
from homeserver.sync.wanted_filters import WantedFilters
from homeserver.web.replies import Reply, Upgrade
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route

PATH: Final = "/_matrix/client/ws/r0"
ALIASES: Final = (
    "/_matrix/client/unstable/stream",
    "/_matrix/client/r0/stream",
    "/_matrix/client/v3/stream",
)


Wires = Callable[[Callable[[Peer], Session]], Any]
"""Makes the protocol of a connection, which makes its session."""


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
        self._wires: Wires | None = None
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
        parameters = SyncParameters.read(query)
        found = await self._filters.find(requester.user_id, parameters.filter)
        wanted = parameters.of(requester.user_id, requester.device_id, found)
        await self._updates.acknowledge(wanted)

        def make_session(peer: Peer) -> Session:
            return Session(
                peer=peer,
                requester=requester,
                request=wanted,
                presence=presence,
                token=WatchedToken(self._tokens, request),
                updates=self._updates,
                methods=self._methods,
                sightings=self._sightings,
                ending=request.shutting_down,
                now=time,
            )

        wires = await self._speaking()
        # Nothing is awaited between this look and `Session.start`, which takes the place.
        if not self._updates.places.has_room(requester.user_id, requester.device_id):
            raise refusal()
        return Upgrade(lambda _peer: wires(make_session))

    async def _speaking(self) -> Wires:
        """What speaks WebSocket. It is loaded, beside the reactor, when the first client wants it: it is a tenth of the
        memory of a server that nobody uses."""
        if self._wires is None:
            wire = await deferToThread(import_module, "homeserver.clientapi.websocket.wire")
            factory = wire.wire_factory(self._reactor)
            self._wires = partial(wire.Wire, factory, self._reactor)
        return self._wires
