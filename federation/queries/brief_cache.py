# SPDX-License-Identifier: Apache-2.0
"""Answers of other servers, kept for a short while: one question at a time for each thing, failures remembered, too.

Bounded by the size of what is kept and by how many questions are under way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeVar

import orjson
from msgspec import Struct
from msgspec.structs import asdict
from twisted.internet.defer import Deferred

from homeserver.errors import LimitExceeded, MatrixError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_OVERHEAD: Final = 500
"""Bytes that anything kept takes besides its content."""
_LARGEST_SHARE: Final = 4
"""What is larger than that part of the whole is not kept."""
_MOST_UNDER_WAY: Final = 100
_COME_AGAIN: Final = 1000
"""Milliseconds."""


class _Kept(Struct, Generic[V], frozen=True):
    value: V | None
    error: MatrixError | None
    until: float
    weight: int


class BriefCache(Generic[K, V]):
    """`clock` gives seconds, `budget` is in bytes; values are kept for `keep` seconds, failures for `keep_failures`.

    What JSON could be made of is weighed by it, so values are of JSON's kinds or structs of them.
    """

    def __init__(self, clock: Callable[[], float], *, keep: float, keep_failures: float, budget: int) -> None:
        self._clock = clock
        self._keep = keep
        self._keep_failures = keep_failures
        self._budget = budget
        self._weight = 0
        self._kept: OrderedDict[K, _Kept[V]] = OrderedDict()
        self._waiting: dict[K, list[Deferred[V]]] = {}

    @property
    def weight(self) -> int:
        """About how many bytes are kept."""
        return self._weight

    async def get(self, key: K, ask: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """What is known under the key, by asking if nothing is. Raises what `ask` raises, LimitExceeded.

        Whoever gives up waiting leaves the question to those who come after.
        """
        kept = self._kept.get(key)
        if kept is not None:
            if kept.until > self._clock():
                self._kept.move_to_end(key)
                if kept.error is not None:
                    raise kept.error.with_traceback(None)
                return kept.value  # type: ignore[return-value]
            self._drop(key)
        waiting = self._waiting.get(key)
        mine: Deferred[V] = Deferred()
        if waiting is not None:
            waiting.append(mine)
            return await mine
        if len(self._waiting) >= _MOST_UNDER_WAY:
            raise LimitExceeded(_COME_AGAIN, "Other servers are being asked for too much at once")
        self._waiting[key] = [mine]
        Deferred.fromCoroutine(self._ask(key, ask))
        return await mine

    async def _ask(self, key: K, ask: Callable[[], Coroutine[Any, Any, V]]) -> None:
        try:
            value = await ask()
            weight = _OVERHEAD + len(orjson.dumps(value, default=_plain))
        except MatrixError as error:
            self._put(key, _Kept(None, error, self._clock() + self._keep_failures, _OVERHEAD))
            for waiter in self._waiting.pop(key):
                waiter.errback(error)
        except BaseException as error:
            for waiter in self._waiting.pop(key):
                waiter.errback(error)
        else:
            if weight * _LARGEST_SHARE <= self._budget:
                self._put(key, _Kept(value, None, self._clock() + self._keep, weight))
            for waiter in self._waiting.pop(key):
                waiter.callback(value)

    def _put(self, key: K, kept: _Kept[V]) -> None:
        self._kept[key] = kept
        self._weight += kept.weight
        while self._weight > self._budget:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: K) -> None:
        self._weight -= self._kept.pop(key).weight


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Struct) else list(value)
