# SPDX-License-Identifier: Apache-2.0
"""Lists of rooms that other servers publish, for this server's clients.

Server-server API, "Published room directory".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from federation.client.errors import RemoteFailure
from federation.membership.asking import as_told
from federation.queries import checks
from federation.queries.brief_cache import BriefCache
from homeserver.errors import InvalidParam
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import is_valid_server_name
from homeserver.rooms.directory import DEFAULT_LIMIT
from homeserver.rooms.elsewhere import ListWish

_KEEP: Final = 60.0
_KEEP_FAILURES: Final = 15.0
_BUDGET: Final = 16 << 20
_LONGEST_TOKEN: Final = 1000
_LONGEST_TERM: Final = 255
_MOST_TYPES: Final = 50

_Key = tuple[str, ListWish]


class DirectoryCalls(Protocol):
    """The part of `FederationCalls` that is needed."""

    async def public_rooms(
        self,
        destination: str,
        *,
        limit: int | None = None,
        since: str | None = None,
        include_all_networks: bool = False,
        third_party_instance_id: str | None = None,
        search: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]: ...


class FederatedDirectories:
    """`homeserver.rooms.elsewhere.RemoteDirectories`. One per process; `clock` gives seconds."""

    def __init__(self, *, calls: DirectoryCalls, clock: Callable[[], float], budget: int = _BUDGET) -> None:
        """`budget` is in bytes."""
        self._calls = calls
        self._cache: BriefCache[_Key, dict[str, Any]] = BriefCache(
            clock, keep=_KEEP, keep_failures=_KEEP_FAILURES, budget=budget
        )

    @property
    def weight(self) -> int:
        """About how many bytes of answers are kept."""
        return self._cache.weight

    async def page(self, server: str, wish: ListWish) -> Mapping[str, Any]:
        """See `RemoteDirectories`."""
        if not is_valid_server_name(server):
            raise InvalidParam("server names no server")
        wish = _within_limits(wish)
        return await self._cache.get((server, wish), lambda: self._ask(server, wish))

    async def _ask(self, server: str, wish: ListWish) -> dict[str, Any]:
        search: dict[str, Any] = {}
        if wish.term is not None:
            search["generic_search_term"] = wish.term
        if wish.room_types is not None:
            search["room_types"] = list(wish.room_types)
        try:
            answer = await self._calls.public_rooms(
                server,
                limit=wish.limit,
                since=wish.since,
                include_all_networks=wish.include_all_networks,
                third_party_instance_id=wish.third_party_instance_id,
                search=search or None,
            )
        except RemoteFailure as failure:
            raise as_told(failure) from failure
        body: dict[str, Any] = {"chunk": checks.rooms(answer["chunk"], wish.limit or DEFAULT_LIMIT)}
        for name in ("next_batch", "prev_batch"):
            token = checks.token(answer.get(name))
            if token is not None:
                body[name] = token
        total = checks.count(answer.get("total_room_count_estimate"))
        if total is not None:
            body["total_room_count_estimate"] = total
        return body


def _within_limits(wish: ListWish) -> ListWish:
    """The wish as it can be asked for and kept. Raises InvalidParam."""
    texts = (wish.since, wish.third_party_instance_id, *(wish.room_types or ()))
    if any(text is not None and len(text) > _LONGEST_TOKEN for text in texts):
        raise InvalidParam("A parameter is too long")
    if wish.room_types is not None and len(wish.room_types) > _MOST_TYPES:
        raise InvalidParam("Too many room types")
    return ListWish(
        term=wish.term[:_LONGEST_TERM] if wish.term else None,
        room_types=None if wish.room_types is None else tuple(wish.room_types),
        limit=wish.limit,
        since=wish.since,
        include_all_networks=wish.include_all_networks,
        third_party_instance_id=wish.third_party_instance_id,
    )
