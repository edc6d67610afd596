# SPDX-License-Identifier: Apache-2.0
"""The routes by which clients follow what happens: `/sync` and the WebSocket."""

from __future__ import annotations

from typing import Any, Final

from homeserver.clientapi.sync import Sightings, SyncEndpoints
from homeserver.clientapi.token_watch import TokenWatch
from homeserver.clientapi.websocket.endpoint import WebSocketEndpoints
from homeserver.clientapi.websocket.methods import Methods, MethodServices
from homeserver.sync.long_poll import LongPoll
from homeserver.sync.wanted_filters import WantedFilters
from homeserver.web.admission import Admission
from homeserver.web.rate_limits import RateLimits
from homeserver.web.routing import Route

UNSTABLE_FLAGS: Final = ("org.matrix.msc4222",)
"""What `/versions` may promise once these routes are served."""


def syncing_routes(
    reactor: Any,
    *,
    long_poll: LongPoll,
    filters: WantedFilters,
    sightings: Sightings,
    methods: MethodServices,
    tokens: TokenWatch,
    limits: RateLimits,
    turns: Admission | None = None,
) -> tuple[Route, ...]:
    """All of them. `turns`: see `Methods`."""
    return (
        *SyncEndpoints(long_poll=long_poll, filters=filters, sightings=sightings, tokens=tokens).routes(),
        *WebSocketEndpoints(
            reactor,
            updates=long_poll,
            methods=Methods(methods, limits, turns),
            filters=filters,
            sightings=sightings,
            tokens=tokens,
        ).routes(),
    )
