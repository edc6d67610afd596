# SPDX-License-Identifier: Apache-2.0
"""Catching up with the stream while the database fails in its several ways."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from homeserver.stream import Recovery
from homeserver.stream.recovery import LONGEST, PAUSE
from storage.database import ConnectionLost, DatabaseClosed, DatabaseUnavailable, LockTimeout


class Store:
    """Fails as told, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    async def settled_position(self) -> int:
        if self._errors:
            raise self._errors.pop(0)
        return 42


class SlowStore(Store):
    """Each attempt takes as long as the pool waits for a connection, or no time at all."""

    def __init__(self, clock: Clock, seconds: float, failures: int) -> None:
        super().__init__(*(DatabaseUnavailable("gone") for _ in range(failures)))
        self._clock = clock
        self._seconds = seconds
        self.attempts = 0

    async def settled_position(self) -> int:
        self.attempts += 1
        self._clock.advance(self._seconds)
        return await super().settled_position()


class Stream:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def missed(self, position: int) -> None:
        self.seen.append(position)


async def test_failures_of_every_kind_are_waited_out() -> None:
    """Also a lock that the lost commit's backend still holds."""
    stream = Stream()
    store = Store(ConnectionLost("gone"), DatabaseUnavailable("starting"), LockTimeout("held"))
    await Recovery(store, stream, lambda _: succeed(None)).resync()
    assert stream.seen == [42]


@pytest.mark.parametrize(("seconds", "attempts"), [(30.0, 2), (0.0, LONGEST / PAUSE)])
async def test_a_minute_is_waited_however_long_an_attempt_takes(seconds: float, attempts: float) -> None:
    """All who want to write wait for it."""
    clock, stream = Clock(), Stream()
    store = SlowStore(clock, seconds, 1000)

    def sleep(pause: float) -> Deferred[None]:
        clock.advance(pause)
        return succeed(None)

    with pytest.raises(DatabaseUnavailable):
        await Recovery(store, stream, sleep, now=clock.seconds).resync()
    assert store.attempts == attempts
    assert stream.seen == []


async def test_catching_up_goes_on_after_a_minute_without_the_database() -> None:
    """Nobody else would look again; what was missed would never be shown."""
    clock, stream = Clock(), Stream()
    store = SlowStore(clock, LONGEST, 3)
    await Recovery(store, stream, lambda _: succeed(None), now=clock.seconds).catch_up()
    assert stream.seen == [42]
    assert store.attempts == 4


async def test_catching_up_goes_on_after_what_nobody_expects() -> None:
    """As after anything else."""
    stream = Stream()
    await Recovery(Store(RuntimeError("odd")), stream, lambda _: succeed(None)).catch_up()
    assert stream.seen == [42]


async def test_a_closed_database_ends_it() -> None:
    """At the stop of the process there is nothing to wait for."""
    stream = Stream()
    recovery = Recovery(
        Store(DatabaseClosed("stopping"), DatabaseClosed("stopping")), stream, lambda _: succeed(None)
    )
    with pytest.raises(DatabaseClosed):
        await recovery.resync()
    await recovery.catch_up()
    assert stream.seen == []
