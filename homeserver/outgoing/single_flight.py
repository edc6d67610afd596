# SPDX-License-Identifier: Apache-2.0
"""One piece of work for everybody who asks for the same thing at the same time.

Owns who waits for which work under way. Keeps no results: a cache belongs to the asker.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.outgoing.errors import Overloaded

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Work by key, at most `most` keys at once. Who waits may be cancelled alone; the work goes on for the cache."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[K, list[Deferred[V]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def do(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The result of the work for the key, begun now or already. Raises Overloaded, and what the work raises."""
        waiting = self._waiting.get(key)
        if waiting is not None:
            return await self._join(waiting)
        if len(self._waiting) >= self._most:
            raise Overloaded("too many look-ups at once")
        waiting = self._waiting[key] = []
        joined = Deferred.fromCoroutine(self._join(waiting))
        Deferred.fromCoroutine(work()).addBoth(self._finished, key)
        return await joined

    async def _join(self, waiting: list[Deferred[V]]) -> V:
        waiter: Deferred[V] = Deferred(waiting.remove)
        waiting.append(waiter)
        return await waiter

    def _finished(self, result: V | Failure, key: K) -> None:
        # Taken out first: a waiter that asks again begins anew.
        for waiter in self._waiting.pop(key):
            if isinstance(result, Failure):
                waiter.errback(result)
            else:
                waiter.callback(result)
