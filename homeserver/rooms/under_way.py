# SPDX-License-Identifier: Apache-2.0
"""Work that is asked for several times at once and done once: a client's impatient retries of something slow.

Knows only this process. Work that must not happen twice at all is made idempotent in the database instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class UnderWay(Generic[T]):
    """The pieces of work under way, by what they are."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[Deferred[T]]] = {}

    async def once(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives, or what the same work that is under way will give. Failures are shared too."""
        waiting = self._waiting.get(key)
        if waiting is not None:
            other: Deferred[T] = Deferred()
            waiting.append(other)
            return await other
        waiting = self._waiting[key] = []
        try:
            result = await work()
        except BaseException as error:
            del self._waiting[key]
            for deferred in waiting:
                deferred.errback(error)
            raise
        del self._waiting[key]
        for deferred in waiting:
            deferred.callback(result)
        return result
