# SPDX-License-Identifier: Apache-2.0
"""`GET /sync`. Client-server API, "Syncing"."""

from __future__ import annotations

from typing import Final, Self

from msgspec import Struct

from homeserver.clientapi.token_watch import TokenWatch
from homeserver.errors import InvalidParam
from homeserver.needs import Protocol
from homeserver.protocol.filters import NO_FILTER, SyncFilter
from homeserver.protocol.tokens import SyncToken, TokenError
from homeserver.sync.long_poll import LongPoll
from homeserver.sync.request import Presence, StateAfter, SyncRequest
from homeserver.sync.wanted_filters import WantedFilters
from homeserver.web.query import Query
from homeserver.web.replies import JsonBytes, Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route

PRESENCES: Final[tuple[Presence, ...]] = ("online", "unavailable", "offline")
_MOST_REMEMBERED: Final = 250
_LONGEST_REMEMBERED: Final = 512
"""Query strings that were read, and characters of one."""


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
        self._read: dict[str, _Asked] = {}
        """By query string: those who follow the same rooms come with the same."""

    def routes(self) -> tuple[Route, ...]:
        return (Route("GET", "/sync", self.sync, auth=Auth.GUEST_OK, limit="sync", abandon=True),)

    async def sync(self, request: MatrixRequest) -> Reply:
        """`GET /sync`."""
        requester = request.requester
        asked, users = self._asked(request), self._tokens.users
        epoch = users.epoch
        parameters, poll = asked.sync, self._long_poll
        if parameters.filter is None:
            wanted = parameters.of(requester.user_id, requester.device_id, NO_FILTER)
        else:
            found = await self._filters.find(requester.user_id, parameters.filter)
            wanted = parameters.of(requester.user_id, requester.device_id, found)
        self._sightings.seen(requester.user_id, requester.device_id, asked.presence)
        if not poll.is_acknowledged(wanted):
            await poll.acknowledge(wanted)
        if users.epoch != epoch:  # the session may have ended while a filter was read, or what was had noted
            await self._tokens.authenticate(request)
        response = poll.news_at_once(wanted) if asked.timeout else poll.at_once(wanted)
        if response is None:
            response = await self._tokens.wait(
                request, lambda ending: poll.respond(wanted, asked.timeout / 1000, ending)
            )
        return JsonBytes(response.body)

    def _asked(self, request: MatrixRequest) -> _Asked:
        """What the parameters say. Raises InvalidParam."""
        text = request.target.partition("?")[2]
        asked = self._read.get(text)
        if asked is None:
            query = request.query
            asked = _Asked(
                query.integer("timeout", 0, minimum=0),
                query.enum("set_presence", PRESENCES, "online"),
                SyncParameters.read(query),
            )
            if len(text) <= _LONGEST_REMEMBERED and "access_token" not in text:
                if len(self._read) >= _MOST_REMEMBERED:
                    self._read.clear()
                self._read[text] = asked
        return asked


class SyncParameters(Struct, frozen=True):
    """The parameters that `/sync` and its WebSocket share."""

    since: SyncToken | None
    filter: str | None
    full_state: bool
    state_after: StateAfter | None

    @classmethod
    def read(cls, query: Query) -> Self:
        """Read them. Raises InvalidParam."""
        since = query.string("since")
        return cls(
            sync_token(since) if since else None,
            query.string("filter"),
            query.boolean("full_state"),
            _state_after(query),
        )

    def of(self, user_id: str, device_id: str | None, wanted: SyncFilter) -> SyncRequest:
        """What they ask for, with the filter that is meant by theirs."""
        return SyncRequest(
            user_id=user_id,
            device_id=device_id,
            since=self.since,
            filter=wanted,
            full_state=self.full_state,
            state_after=self.state_after,
        )


class _Asked(Struct, frozen=True):
    """All parameters of `/sync`."""

    timeout: int
    """Milliseconds."""
    presence: Presence
    sync: SyncParameters


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
