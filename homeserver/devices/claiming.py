# SPDX-License-Identifier: Apache-2.0
"""Claiming one-time keys: for our users, and for other servers from our users. Owns nothing but the way there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from orjson import Fragment

from homeserver.devices.counts import KeyCounts
from homeserver.devices.querying import LONGEST_TIMEOUT
from homeserver.devices.remote import JsonObject, RemoteKeys
from homeserver.errors import TooLarge
from storage.one_time_keys import OneTimeKeyStore

MOST_KEYS: Final = 10_000
"""In one request."""

Wanted = Mapping[str, Mapping[str, str]]
"""User → device → algorithm."""


@dataclass(slots=True)
class ClaimAnswer:
    """What was given out, and which servers could not be asked."""

    one_time_keys: dict[str, Any] = field(default_factory=dict)
    """User → device → `<algorithm>:<key id>` → key; of a user, it may be an `orjson.Fragment`."""
    failures: dict[str, JsonObject] = field(default_factory=dict)


class KeyClaim:
    """Gives out one-time keys."""

    def __init__(
        self,
        *,
        store: OneTimeKeyStore,
        counts: KeyCounts,
        remote: RemoteKeys,
        is_local: Callable[[str], bool],
    ) -> None:
        self._store = store
        self._counts = counts
        self._remote = remote
        self._is_local = is_local

    async def claim(self, wanted: Wanted, timeout: float) -> ClaimAnswer:
        """For one of our users; other servers get `timeout` seconds. Raises TooLarge."""
        _check_size(wanted)
        answer = await self._local({each: wanted[each] for each in wanted if self._is_local(each)})
        others = {each: wanted[each] for each in wanted if not self._is_local(each)}
        if others:
            remote = await self._remote.claim(others, min(timeout, LONGEST_TIMEOUT))
            answer.one_time_keys.update(remote.one_time_keys)
            answer.failures.update(remote.failures)
        return answer

    async def claim_for_server(self, wanted: Wanted) -> ClaimAnswer:
        """For another server, from our users only. Raises TooLarge."""
        _check_size(wanted)
        return await self._local({each: wanted[each] for each in wanted if self._is_local(each)})

    async def _local(self, wanted: Wanted) -> ClaimAnswer:
        answer = ClaimAnswer()
        if not any(wanted.values()):
            return answer
        moved: list[tuple[str, str]] = []
        for user_id, keys, devices in await self._store.claim(wanted):
            answer.one_time_keys[user_id] = Fragment(keys)
            moved += [(user_id, device_id) for device_id in devices or ()]
        await self._counts.moved(moved)
        return answer


def _check_size(wanted: Wanted) -> None:
    if sum(map(len, wanted.values())) > MOST_KEYS:
        raise TooLarge(f"At most {MOST_KEYS} keys can be claimed at once")
