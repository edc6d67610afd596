# SPDX-License-Identifier: Apache-2.0
"""How long somebody waits for what other servers do, be it their keys or a notary's word.

Owns the bound, which is for those who hold a place that others want while they wait: who names servers that do not
answer shall not hold it for long. What the database takes is not counted, as keys that lie there, or are on their way
there, would be taken for unknown for no fault of anybody else's.
"""

from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred

from homeserver.web.clock import Clock

#: Seconds for servers themselves: enough for nearly a hundred that do not answer.
FOR_SERVERS: Final = 30.0
#: For one notary, as long as it has for an answer; and for all of them, each alike.
FOR_NOTARY: Final = 20.0
FOR_NOTARIES: Final = 40.0
_LOOK: Final = 1.0


class DatabaseUse:
    """Whose keys are being read or kept."""

    def __init__(self) -> None:
        self._servers: Counter[str] = Counter()

    @contextmanager
    def of(self, server_names: Collection[str]) -> Iterator[None]:
        """While it lasts the database is asked about these servers."""
        names = tuple(server_names)
        self._servers.update(names)
        try:
            yield
        finally:
            for name in names:
                self._servers[name] -= 1
                if not self._servers[name]:
                    del self._servers[name]

    def concerns(self, server_names: Collection[str]) -> bool:
        """Whether it is asked about one of these."""
        return not self._servers.keys().isdisjoint(server_names)


def for_each_notary(count: int) -> float:
    """Seconds that each of so many notaries has."""
    return min(FOR_NOTARY, FOR_NOTARIES / max(count, 1))


async def in_time(
    work: Coroutine[Any, Any, None], clock: Clock, seconds: float, paused: Callable[[], bool]
) -> None:
    """Have it done, or break it off when it has taken so long, looked at each second; not counted, and never broken
    off, while it is `paused`.
    """
    doing = Deferred.fromCoroutine(work)
    left, broken_off = seconds, False
    looking: Any = None

    def look() -> None:
        nonlocal left, broken_off, looking
        if not paused():
            left -= _LOOK
        if left > 0:
            looking = clock.callLater(_LOOK, look)
        else:
            broken_off = True
            doing.cancel()

    looking = clock.callLater(_LOOK, look)
    try:
        await doing
    except CancelledError:
        if not broken_off:
            raise
    finally:
        if looking.active():
            looking.cancel()
