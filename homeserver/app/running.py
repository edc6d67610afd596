# SPDX-License-Identifier: Apache-2.0
"""One piece of work on the reactor, for commands that are done when it is: started, bounded in time, its outcome."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, TimeoutError
from twisted.python.failure import Failure

from homeserver.config import StartRefused

T = TypeVar("T")


def run_to_end(work: Callable[[Any], Coroutine[Any, Any, T]], longest: float) -> T:
    """What `work` gives, run with the reactor. Blocks; once per process. Raises what it raises, StartRefused after
    `longest` seconds, KeyboardInterrupt."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    outcome: list[T | Failure] = []

    def begin() -> None:
        running = Deferred.fromCoroutine(work(reactor))
        running.addTimeout(longest, reactor)
        running.addBoth(outcome.append)
        running.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    if not outcome:
        raise KeyboardInterrupt
    result = outcome[0]
    if isinstance(result, Failure):
        if isinstance(result.value, TimeoutError):
            raise StartRefused(f"no end of the examination within {longest:.0f} seconds")
        result.raiseException()
    return result
