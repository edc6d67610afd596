# SPDX-License-Identifier: Apache-2.0
"""Rate limits that hold for the processes of all machines together: guesses of passwords, log-ins and registrations.

Owns telling the others what was taken here, and taking it there. Every other limit is the same for the processes of one
machine (`bucket_table`), and each machine has the whole of it: somebody who divides requests over N machines gets N
times as much.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import orjson
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from homeserver.needs import Protocol
from homeserver.web.rate_limits import RateLimits

CHANNEL: Final = "rate_limits"
"""JSON arrays: origin, class, key, tokens."""
_LONGEST_KEY: Final = 1000

Notify = Callable[[str, Sequence[str]], Awaitable[object]]
"""`notify(channel, payloads)`: tells all processes, this one too."""


class Others(Protocol):
    @property
    def has_others(self) -> bool: ...


class SharedLimits:
    """What is taken from the limits that all processes share. One per process."""

    _log = Logger()

    def __init__(self, *, origin: str, notify: Notify, others: Others) -> None:
        self._origin = origin
        self._notify = notify
        self._others = others

    def taken(self, name: str, key: str, cost: float) -> None:
        """Something was taken here: the others are told, which nobody waits for."""
        if self._others.has_others and len(key) <= _LONGEST_KEY:
            payload = orjson.dumps([self._origin, name, key, cost]).decode()
            telling = Deferred.fromCoroutine(self._tell(payload))
            telling.addErrback(lambda failure: self._log.failure("a limit was not shared", failure))

    async def _tell(self, payload: str) -> None:
        await self._notify(CHANNEL, (payload,))

    def heard(self, limits: RateLimits, payload: str) -> None:
        """A notification; what was taken here is known."""
        origin, name, key, cost = orjson.loads(payload)
        if origin != self._origin and name in limits:
            limits.take_elsewhere(name, key, float(cost))
