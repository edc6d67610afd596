# SPDX-License-Identifier: Apache-2.0
"""Claiming one-time keys: for our users, and for other servers from our users. Owns nothing but the way there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from msgspec import Struct, field
from orjson import Fragment

from homeserver.devices.counts import KeyCounts
from homeserver.devices.querying import LONGEST_TIMEOUT
from homeserver.devices.remote import JsonObject, RemoteKeys
from homeserver.errors import TooLarge

MOST_KEYS: Final = 10_000
"""In one request."""

Wanted = Mapping[str, Mapping[str, str]]
"""User → device → algorithm."""


class ClaimAnswer(Struct):
    """What was given out, and which servers could not be asked."""

    one_time_keys: Any = field(default_factory=dict)
    """User → device → `<algorithm>:<key id>` → key; an object, or an `orjson.Fragment` of it."""
    failures: dict[str, JsonObject] = field(default_factory=dict)


class KeyClaim:
    """Gives out one-time keys."""

    def __init__(
        self,
        *,
        counts: KeyCounts,
        remote: RemoteKeys,
        is_local: Callable[[str], bool],
    ) -> None:
        self._counts = counts
        self._remote = remote
        self._is_local = is_local

    async def claim(self, wanted: Wanted, timeout: float) -> ClaimAnswer:
        """For one of our users; other servers get `timeout` seconds. Raises TooLarge."""
        _check_size(wanted)
        if all(map(self._is_local, wanted)):
            return ClaimAnswer(_encoded(await self._local(wanted)))
        others = {each: devices for each, devices in wanted.items() if not self._is_local(each)}
        local = await self._local({each: wanted[each] for each in wanted if each not in others})
        remote = await self._remote.claim(others, min(timeout, LONGEST_TIMEOUT))
        keys = {} if local is None else orjson.loads(local)
        return ClaimAnswer({**keys, **remote.one_time_keys}, dict(remote.failures))

    async def claim_for_server(self, wanted: Wanted) -> ClaimAnswer:
        """For another server, from our users only. Raises TooLarge."""
        _check_size(wanted)
        local = {each: devices for each, devices in wanted.items() if self._is_local(each)}
        return ClaimAnswer(_encoded(await self._local(local)))

    async def _local(self, wanted: Wanted) -> str | None:
        """A JSON object with what our users' devices gave."""
        if not any(wanted.values()):
            return None
        return await self._counts.claim(wanted)


def _encoded(keys: str | None) -> Mapping[str, Any] | Fragment:
    return {} if keys is None else Fragment(keys)


def _check_size(wanted: Wanted) -> None:
    if sum(map(len, wanted.values())) > MOST_KEYS:
        raise TooLarge(f"At most {MOST_KEYS} keys can be claimed at once")
