# SPDX-License-Identifier: Apache-2.0
"""Summaries of rooms and spaces that this server is not in (server-server API, "Spaces"; MSC3266).

An answer is kept by the server that gave it, not by the room alone: what one server says of a room is nobody's view but
of those who asked that server.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from federation.client.errors import BadAnswer, RemoteFailure
from federation.inbound.parallel import in_parallel
from federation.membership.asking import as_told, candidates
from federation.queries import checks
from federation.queries.brief_cache import BriefCache
from homeserver.errors import MatrixError
from homeserver.needs import Protocol
from homeserver.rooms.elsewhere import RemoteTree

log = logging.getLogger(__name__)

_KEEP: Final = 300.0
_KEEP_FAILURES: Final = 60.0
_BUDGET: Final = 16 << 20
_WIDTH: Final = 10
_MOST_SERVERS: Final = 3
"""Asked about one room."""
_PATIENCE: Final = 15.0
"""Seconds that all questions of one call together take at most; a client waits for the answer."""

_Key = tuple[str, str, bool]


class HierarchyCalls(Protocol):
    """The part of `FederationCalls` that is needed."""

    async def hierarchy(
        self, destination: str, room_id: str, *, suggested_only: bool = False
    ) -> Mapping[str, Any]: ...


class FederatedSummaries:
    """`homeserver.rooms.elsewhere.RemoteSummaries`. One per process."""

    def __init__(
        self, reactor: Any, *, server_name: str, calls: HierarchyCalls, budget: int = _BUDGET
    ) -> None:
        """`budget` is in bytes."""
        self._reactor = reactor
        self._server_name = server_name
        self._calls = calls
        self._cache: BriefCache[_Key, RemoteTree] = BriefCache(
            reactor.seconds, keep=_KEEP, keep_failures=_KEEP_FAILURES, budget=budget
        )

    @property
    def weight(self) -> int:
        """About how many bytes of answers are kept."""
        return self._cache.weight

    async def trees(
        self, wanted: Mapping[str, Sequence[str]], *, suggested_only: bool = False
    ) -> Mapping[str, RemoteTree]:
        """See `RemoteSummaries`."""
        found: dict[str, RemoteTree] = {}

        async def look(room_id: str) -> None:
            for server in candidates(self._server_name, wanted[room_id])[:_MOST_SERVERS]:
                tree = await self._told_by(server, room_id, suggested_only)
                if tree is not None:
                    found[room_id] = tree
                    return

        looking = Deferred.fromCoroutine(in_parallel(look, wanted, _WIDTH))
        try:
            await looking.addTimeout(_PATIENCE, self._reactor)
        except DeferredTimeout:
            log.info("not all of %d rooms were told of in time", len(wanted))
        return dict(found)

    async def _told_by(self, server: str, room_id: str, suggested_only: bool) -> RemoteTree | None:
        try:
            return await self._cache.get(
                (server, room_id, suggested_only), lambda: self._ask(server, room_id, suggested_only)
            )
        except CancelledError:
            raise
        except MatrixError as error:
            log.debug("%s tells nothing of %s: %s", server, room_id, error)
            return None

    async def _ask(self, server: str, room_id: str, suggested_only: bool) -> RemoteTree:
        try:
            answer = await self._calls.hierarchy(server, room_id, suggested_only=suggested_only)
            summary = checks.summary(answer["room"])
            if summary is None or summary["room_id"] != room_id:
                raise BadAnswer(server, "that is another room")
        except RemoteFailure as failure:
            raise as_told(failure) from failure
        children_state = checks.children_state(answer["room"].get("children_state"))
        named = {child["state_key"] for child in children_state}
        children = checks.rooms(answer["children"], checks.MOST_CHILDREN)
        return RemoteTree(
            summary=summary,
            children_state=children_state,
            children={child["room_id"]: child for child in children if child["room_id"] in named},
            inaccessible=frozenset(named.intersection(answer["inaccessible_children"])),
        )
