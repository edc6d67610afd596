# SPDX-License-Identifier: Apache-2.0
"""Profiles of other servers' users (server-server API, "Querying for information"), for this server's clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from federation.client.errors import RemoteFailure
from federation.membership.asking import as_told
from federation.queries import checks
from federation.queries.brief_cache import BriefCache
from homeserver.errors import NotFound
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import domain_of, is_valid_server_name

_KEEP: Final = 300.0
_KEEP_FAILURES: Final = 60.0
_BUDGET: Final = 8 << 20


class ProfileCalls(Protocol):
    """The part of `FederationCalls` that is needed."""

    async def query_profile(
        self, destination: str, user_id: str, field: str | None = None
    ) -> Mapping[str, Any]: ...


class FederatedProfiles:
    """`homeserver.profiles.lookup.RemoteProfiles`. One per process; `clock` gives seconds."""

    def __init__(self, *, calls: ProfileCalls, clock: Callable[[], float], budget: int = _BUDGET) -> None:
        """`budget` is in bytes."""
        self._calls = calls
        self._cache: BriefCache[str, dict[str, Any]] = BriefCache(
            clock, keep=_KEEP, keep_failures=_KEEP_FAILURES, budget=budget
        )

    @property
    def weight(self) -> int:
        """About how many bytes of answers are kept."""
        return self._cache.weight

    async def profile(self, user_id: str) -> dict[str, Any]:
        """See `RemoteProfiles`. Always asked for whole: who wants one field often wants the next."""
        return await self._cache.get(user_id, lambda: self._ask(user_id))

    async def _ask(self, user_id: str) -> dict[str, Any]:
        server = domain_of(user_id)
        if not is_valid_server_name(server):
            raise NotFound("Profile not found")
        try:
            return checks.profile(await self._calls.query_profile(server, user_id))
        except RemoteFailure as failure:
            raise as_told(failure) from failure
