# SPDX-License-Identifier: Apache-2.0
"""Claiming one-time keys: for our users, and for other servers from our users. Owns nothing but the way there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from homeserver.devices.counts import KeyCounts
from homeserver.devices.querying import LONGEST_TIMEOUT
from homeserver.devices.remote import JsonObject, RemoteKeys
from homeserver.errors import TooLarge
from storage.one_time_keys import KeyWanted, OneTimeKeyStore

MOST_KEYS: Final = 10_000
"""In one request."""

Wanted = Mapping[str, Mapping[str, str]]
"""User → device → algorithm."""


@dataclass(slots=True)
class ClaimAnswer:
    """User → device → `<algorithm>:<key id>` → key; and servers that could not be asked."""

    one_time_keys: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
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
        keys = [
            KeyWanted(user_id, device_id, algorithm)
            for user_id, devices in wanted.items()
            for device_id, algorithm in devices.items()
        ]
        answer = ClaimAnswer()
        if not keys:
            return answer
        claimed = await self._store.claim(keys)
        for key in claimed:
            devices = answer.one_time_keys.setdefault(key.user_id, {})
            devices.setdefault(key.device_id, {})[f"{key.algorithm}:{key.key_id}"] = orjson.loads(key.key)
        await self._counts.moved((key.user_id, key.device_id) for key in claimed if key.moved)
        return answer


def _check_size(wanted: Wanted) -> None:
    if sum(map(len, wanted.values())) > MOST_KEYS:
        raise TooLarge(f"At most {MOST_KEYS} keys can be claimed at once")
