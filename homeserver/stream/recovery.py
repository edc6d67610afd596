# SPDX-License-Identifier: Apache-2.0
"""What to do when the stream may have moved unheard: a connection broke, so notifications or an outcome were lost."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from time import monotonic

from homeserver.needs import Protocol
from storage.database import DatabaseClosed, DatabaseFailure

logger = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds between attempts to reach the database."""
LONGEST = 60.0
"""Seconds after which no further attempt is begun. Attempts are not counted: each may wait for a connection or a lock
for half a minute, or fail at once."""


class Settled(Protocol):
    def settled_position(self) -> Awaitable[int]: ...


class Missed(Protocol):
    def missed(self, position: int) -> None: ...


class Recovery:
    """Reads the stream up to where it stands and has everything in memory brought up to date."""

    def __init__(
        self,
        store: Settled,
        stream: Missed,
        sleep: Callable[[float], Awaitable[None]],
        *,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """`now` is in seconds."""
        self._store = store
        self._stream = stream
        self._sleep = sleep
        self._now = now

    async def resync(self) -> None:
        """Returns once the database answered. Raises DatabaseFailure after a minute without it, and one attempt more.

        Who gives up then must come back: until it succeeds, the stream may have a hole that nothing else will fill.
        """
        until = self._now() + LONGEST
        while True:
            try:
                position = await self._store.settled_position()
            except DatabaseClosed:
                raise
            except DatabaseFailure:  # a timeout among them: the lost commit's lock may outlive its connection
                if self._now() + PAUSE >= until:
                    raise
                await self._sleep(PAUSE)
            else:
                self._stream.missed(position)
                return

    async def catch_up(self) -> None:
        """As `resync`, for as long as it takes, or until the database is closed here."""
        while True:
            try:
                await self.resync()
            except DatabaseClosed:
                return
            except Exception:
                logger.exception("still not caught up with the stream")
                await self._sleep(PAUSE)
            else:
                return
