# SPDX-License-Identifier: Apache-2.0
"""Asking other servers for their users' keys: all servers of a request side by side, each within its time.

Of users who share a room with whoever asks, the list is kept from now on (`lists`), so that it is asked for once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout

from federation.client.errors import RemoteFailure
from federation.devices import checking
from homeserver.devices.remote import JsonObject, RemoteClaimAnswer, RemoteKeysAnswer
from homeserver.needs import Protocol

SERVERS_AT_ONCE: Final = 50
"""Of all requests together. Who waits for a turn does so within the time of the request."""
_LEAST_SECONDS: Final = 0.1

T = TypeVar("T")


class Calls(Protocol):
    """`federation.client.calls.FederationCalls`."""

    async def keys_query(
        self, destination: str, device_keys: Mapping[str, Sequence[str]], *, timeout: float
    ) -> Mapping[str, Any]: ...

    async def keys_claim(
        self, destination: str, one_time_keys: Mapping[str, Mapping[str, str]], *, timeout: float
    ) -> Mapping[str, Any]: ...


class Lists(Protocol):
    """`federation.devices.lists.RemoteLists`."""

    async def kept(self, user_ids: Collection[str]) -> set[str]: ...

    async def follow(self, asking: str, user_ids: Collection[str]) -> None: ...


class FederatedKeys:
    """See `homeserver.devices.remote.RemoteKeys`."""

    def __init__(self, clock: Any, *, calls: Calls, lists: Lists) -> None:
        """`clock`: the reactor, or another that tells the time and calls back later."""
        self._clock = clock
        self._calls = calls
        self._lists = lists
        self._places = DeferredSemaphore(SERVERS_AT_ONCE)

    async def kept(self, user_ids: Collection[str]) -> set[str]:
        """Those whose lists are kept here and right."""
        return await self._lists.kept(user_ids)

    async def query(
        self, asking: str, device_keys: Mapping[str, Sequence[str]], timeout: float
    ) -> RemoteKeysAnswer:
        """Ask each server once for all of its users."""
        answer = RemoteKeysAnswer()

        async def ask(server: str, users: Sequence[str], left: float) -> None:
            wanted = {user_id: device_keys[user_id] for user_id in users}
            told = await self._calls.keys_query(server, wanted, timeout=left)
            _take_keys(answer, wanted, told)

        await self._each(device_keys, ask, timeout, answer.failures)
        await self._lists.follow(asking, list(answer.device_keys))
        return answer

    async def claim(
        self, one_time_keys: Mapping[str, Mapping[str, str]], timeout: float
    ) -> RemoteClaimAnswer:
        """Claim at each server once for all of its users."""
        answer = RemoteClaimAnswer()

        async def ask(server: str, users: Sequence[str], left: float) -> None:
            wanted = {user_id: one_time_keys[user_id] for user_id in users}
            told = await self._calls.keys_claim(server, wanted, timeout=left)
            for user_id, devices in wanted.items():
                found = told.get(user_id)
                of_user: dict[str, Any] = found if isinstance(found, dict) else {}
                for device_id in devices:
                    keys = checking.one_time_keys(of_user.get(device_id))
                    if keys:
                        answer.one_time_keys.setdefault(user_id, {})[device_id] = keys

        await self._each(one_time_keys, ask, timeout, answer.failures)
        return answer

    async def _each(
        self,
        users: Iterable[str],
        ask: Callable[[str, Sequence[str], float], Awaitable[None]],
        timeout: float,
        failures: dict[str, JsonObject],
    ) -> None:
        deadline = self._clock.seconds() + timeout
        by_server: dict[str, list[str]] = {}
        for user_id in users:
            by_server.setdefault(user_id.partition(":")[2], []).append(user_id)

        async def guarded(server: str, named: Sequence[str]) -> None:
            try:
                await self._places.acquire().addTimeout(timeout, self._clock)
            except DeferredTimeout:
                failures[server] = _unavailable("too many servers are being asked")
                return
            try:
                await ask(server, named, max(_LEAST_SECONDS, deadline - self._clock.seconds()))
            except RemoteFailure as failure:
                failures[server] = _unavailable(failure.reason)
            finally:
                self._places.release()

        asked = [Deferred.fromCoroutine(guarded(server, named)) for server, named in by_server.items()]
        await gatherResults(asked, consumeErrors=True)


def _unavailable(reason: str) -> JsonObject:
    return {"errcode": "M_UNAVAILABLE", "error": reason}


def _take_keys(
    answer: RemoteKeysAnswer, wanted: Mapping[str, Sequence[str]], told: Mapping[str, Any]
) -> None:
    """What a server said of the users it was asked about, and of nobody else."""
    for user_id, ids in wanted.items():
        devices = told["device_keys"].get(user_id)
        kept: dict[str, JsonObject] = {}
        for device_id, value in list((devices if type(devices) is dict else {}).items())[
            : checking.MOST_DEVICES
        ]:
            keys = checking.device_keys(value, user_id, device_id)
            if keys is not None and (not ids or device_id in ids):
                kept[device_id] = keys
        answer.device_keys[user_id] = kept
        for section, usage, into in (
            ("master_keys", "master", answer.master_keys),
            ("self_signing_keys", "self_signing", answer.self_signing_keys),
        ):
            key = checking.cross_signing_key(told[section].get(user_id), user_id, usage)
            if key is not None:
                into[user_id] = key
