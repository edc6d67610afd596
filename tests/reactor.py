# SPDX-License-Identifier: Apache-2.0
"""Running coroutines on the real reactor from pytest.

`async def test_…` functions just work: `tests/conftest.py` hands them to `run`, fixtures and hypothesis' `@given`
included. A test gets 300 seconds; `@pytest.mark.reactor_timeout(seconds)` gives another limit. Synchronous tests and
fixtures call `run(coroutine)` themselves, as often as they like:

    async def test_something(database: Database) -> None:
        assert await database.fetch_one("one", "SELECT 1") == (1,)

    @pytest.fixture
    def thing(database: Database) -> Iterator[Thing]:
        thing = run(Thing.open(database))
        yield thing
        run(thing.close())

The reactor's own loop body is turned here, in the main thread, only while a coroutine is being run. Between runs time
stands still for the reactor. After each test and its fixtures, nothing may be left registered on the reactor that was
not before: a delayed call or a socket left behind fails the test and is removed. A fixture of wider scope that keeps
something there calls `accept_leftovers()` once it is up.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Coroutine, Sized
from typing import Any, TypeVar

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")

DEFAULT_TIMEOUT = 300.0
"""Far beyond what any test takes: what hangs must end, a machine that stands still at times must not fail it."""

reactor: Any = _reactor
"""The process's reactor, untyped because its many interfaces have no common type."""

ENDING = 10.0
"""Seconds that what is ending at the end of a test gets for it."""

_running = False
_accepted: set[Any] = set()


class TestTimeout(Exception):
    """The coroutine did not finish in time."""

    __test__ = False


def start() -> None:
    """Fire the reactor's start-up events, once per process. Ctrl-C stays pytest's."""
    if reactor.running:
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    reactor.startRunning(installSignalHandlers=True)  # SIGCHLD's is needed for child processes
    for number, handler in handlers.items():
        signal.signal(number, handler)


def shut_down() -> None:
    """Fire the shut-down events, which end the thread pool."""
    if reactor.running:
        reactor.fireSystemEvent("shutdown")
        turn()


def turn(longest: float = 0.0, *, unless: Sized = ()) -> None:
    """One turn of the reactor's loop, waiting up to `longest` seconds for something to happen.

    `unless` is looked at after the calls that were due: if there is something in it, nothing is waited for.
    """
    reactor.runUntilCurrent()
    until_next = reactor.timeout()
    longest = 0.0 if unless else longest
    reactor.doIteration(longest if until_next is None else min(longest, until_next))


def run(coroutine: Coroutine[Any, Any, T], timeout: float = DEFAULT_TIMEOUT) -> T:
    """The coroutine's result. Raises what it raises, or `TestTimeout` after cancelling it."""
    global _running  # noqa: PLW0603
    assert not _running, "run() was called from inside run(): await the coroutine instead"
    start()
    outcome: list[T | Failure] = []
    deferred: Deferred[T] = Deferred.fromCoroutine(coroutine)
    deferred.addBoth(outcome.append)
    expired: list[bool] = []
    timer = reactor.callLater(timeout, expired.append, True)
    _running = True
    try:
        while not outcome:
            turn(1.0, unless=outcome)
            if expired:
                deferred.cancel()
                raise TestTimeout(f"not finished after {timeout:g} s")
    finally:
        _running = False
        if timer.active():
            timer.cancel()
    result = outcome[0]
    if isinstance(result, Failure):
        result.raiseException()
        raise AssertionError("unreachable")
    return result


def accept_leftovers() -> None:
    """What is registered on the reactor now is meant to stay beyond the test."""
    _accepted.update(_registered())


def registered() -> set[Any]:
    """What is registered on the reactor now."""
    return set(_registered())


def clear_leftovers(before: set[Any]) -> list[str]:
    """Remove and describe what was registered since `before`, after giving what is ending a few turns to end."""
    left = _registered() - before - _accepted
    for _ in range(20):
        if not left:
            return []
        turn(0.005)
        left = _registered() - before - _accepted
    # Other processes and threads may need longer for their part in an end; what a timer has yet to do is no end.
    timers, deadline = _timers(left), time.monotonic() + ENDING
    while left and not any(timer.called for timer in timers) and time.monotonic() < deadline:
        turn(0.05)
        left = _registered() - before - _accepted
    left |= {timer for timer in timers if timer.called}
    if not left:
        return []
    described = sorted(map(repr, left))
    for leftover in left:
        if hasattr(leftover, "cancel"):
            if leftover.active():
                leftover.cancel()
        else:
            reactor.removeReader(leftover)
            reactor.removeWriter(leftover)
    return described


def _timers(registered: set[Any]) -> set[Any]:
    return {each for each in registered if hasattr(each, "cancel")}


def _registered() -> set[Any]:
    internal = reactor._internalReaders
    readers = {reader for reader in reactor.getReaders() if reader not in internal}
    return readers | set(reactor.getWriters()) | set(reactor.getDelayedCalls())
