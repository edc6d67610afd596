# SPDX-License-Identifier: Apache-2.0
"""Catching up with the stream while the database fails in its several ways."""

from __future__ import annotations

import pytest
from twisted.internet.defer import succeed

from homeserver.stream import Recovery
from homeserver.stream.recovery import ATTEMPTS
from storage.database import ConnectionLost, DatabaseClosed, DatabaseUnavailable, LockTimeout


class Store:
    """Fails as told, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    async def settled_position(self) -> int:
        if self._errors:
            raise self._errors.pop(0)
        return 42


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


async def test_catching_up_goes_on_after_a_minute_without_the_database() -> None:
    """Nobody else would look again; what was missed would never be shown."""
    stream = Stream()
    store = Store(*(DatabaseUnavailable("gone") for _ in range(ATTEMPTS + 1)), RuntimeError("odd"))
    await Recovery(store, stream, lambda _: succeed(None)).catch_up()
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
