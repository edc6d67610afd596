# SPDX-License-Identifier: Apache-2.0
"""Work that is done for all who ask together, one round after the other.

Owns who belongs to which round. Whoever asks while a round is under way belongs to the next one, since what they need
may be newer than what the present one began with.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class Rounds(Generic[T]):
    """`work` is done again for as long as somebody has asked since it was last begun."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._waiting: list[Deferred[T]] = []
        self._under_way = False

    def next(self) -> Deferred[T]:
        """What the next round gives, or fails with: one that begins after the call. May be cancelled, for oneself."""
        done: Deferred[T] = Deferred()
        self._waiting.append(done)
        if not self._under_way:
            Deferred.fromCoroutine(self._run())
        return done

    async def _run(self) -> None:
        self._under_way = True
        try:
            while self._waiting:
                served, self._waiting = self._waiting, []
                try:
                    found = await self._work()
                except Exception as error:
                    for done in served:
                        if not done.called:
                            done.errback(error)
                else:
                    for done in served:
                        if not done.called:
                            done.callback(found)
        finally:
            self._under_way = False
