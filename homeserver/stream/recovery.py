# SPDX-License-Identifier: Apache-2.0
"""What to do when the stream may have moved unheard: a connection broke, so notifications or an outcome were lost."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from storage.database import ConnectionLost, DatabaseUnavailable

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
        """Returns once the database answered. Raises DatabaseUnavailable after a minute without it."""
        for attempt in range(ATTEMPTS):
            try:
                position = await self._store.settled_position()
            except (ConnectionLost, DatabaseUnavailable):
                if attempt == ATTEMPTS - 1:
                    raise
                await self._sleep(PAUSE)
            else:
                self._stream.missed(position)
                return
