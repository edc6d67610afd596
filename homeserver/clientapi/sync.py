# SPDX-License-Identifier: Apache-2.0
"""`GET /sync`. Client-server API, "Syncing"."""

from __future__ import annotations

from typing import Final, Protocol

from homeserver.clientapi.token_watch import TokenWatch
from homeserver.errors import InvalidParam
from homeserver.protocol.tokens import SyncToken, TokenError
from homeserver.sync.long_poll import LongPoll
from homeserver.sync.request import Presence, StateAfter, SyncRequest
from homeserver.sync.wanted_filters import WantedFilters
from homeserver.web.query import Query
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route

PRESENCES: Final[tuple[Presence, ...]] = ("online", "unavailable", "offline")


class Sightings(Protocol):
    """Is told who is about."""

    def seen(self, user_id: str, device_id: str | None, set_presence: str) -> object: ...


class SyncEndpoints:
    """`/sync`."""

    def __init__(
        self, *, long_poll: LongPoll, filters: WantedFilters, sightings: Sightings, tokens: TokenWatch
    ) -> None:
        self._long_poll = long_poll
        self._filters = filters
        self._sightings = sightings
        self._tokens = tokens

    def routes(self) -> tuple[Route, ...]:
        return (Route("GET", "/sync", self.sync, auth=Auth.GUEST_OK, limit="sync", abandon=True),)

    async def sync(self, request: MatrixRequest) -> Reply:
        """`GET /sync`."""
        query, requester = request.query, request.requester
        timeout = query.integer("timeout", 0, minimum=0)
        presence = query.enum("set_presence", PRESENCES, "online")
        wanted = await sync_request(query, requester.user_id, requester.device_id, self._filters)
        self._sightings.seen(requester.user_id, requester.device_id, presence)
        await self._long_poll.acknowledge(wanted)
        if timeout == 0:
            response = await self._long_poll.respond(wanted, 0, request.shutting_down)
        else:
            response = await self._tokens.wait(
                request, lambda ending: self._long_poll.respond(wanted, timeout / 1000, ending)
            )
        return JsonBytes(response.body)


async def sync_request(
    query: Query, user_id: str, device_id: str | None, filters: WantedFilters
) -> SyncRequest:
    """What the parameters that `/sync` and its WebSocket share ask for. Raises InvalidParam, NotJson, FilterError."""
    since = query.string("since")
    return SyncRequest(
        user_id=user_id,
        device_id=device_id,
        since=sync_token(since) if since else None,
        filter=await filters.find(user_id, query.string("filter")),
        full_state=query.boolean("full_state"),
        state_after=_state_after(query),
    )


def sync_token(text: str) -> SyncToken:
    """A token from a client. Raises InvalidParam."""
    try:
        return SyncToken.parse(text)
    except TokenError as error:
        raise InvalidParam("since is not a token of this server") from error


def _state_after(query: Query) -> StateAfter | None:
    """Whoever asks by the unstable name is answered by it (MSC4222)."""
    if query.boolean("use_state_after"):
        return "state_after"
    if query.boolean("org.matrix.msc4222.use_state_after"):
        return "org.matrix.msc4222.state_after"
    return None
