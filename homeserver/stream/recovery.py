# SPDX-License-Identifier: Apache-2.0
"""What to do when the stream may have moved unheard: a connection broke, so notifications or an outcome were lost."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from homeserver.needs import Protocol
from storage.database import DatabaseClosed, DatabaseFailure

logger = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds between attempts to reach the database."""
ATTEMPTS = 120


class Settled(Protocol):
    def settled_position(self) -> Awaitable[int]: ...


class Missed(Protocol):
    def missed(self, position: int) -> None: ...


class Recovery:
    """Reads the stream up to where it stands and has everything in memory brought up to date."""

    def __init__(self, store: Settled, stream: Missed, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._store = store
        self._stream = stream
        self._sleep = sleep

    async def resync(self) -> None:
        """Returns once the database answered. Raises DatabaseFailure after a minute or more without it.

        Who gives up then must come back: until it succeeds, the stream may have a hole that nothing else will fill.
        """
        for attempt in range(ATTEMPTS):
            try:
                position = await self._store.settled_position()
            except DatabaseClosed:
                raise
            except DatabaseFailure:  # a timeout among them: the lost commit's lock may outlive its connection
                if attempt == ATTEMPTS - 1:
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
