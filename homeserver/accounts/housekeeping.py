# SPDX-License-Identifier: Apache-2.0
"""What accounts need doing from time to time: sweeping what expired, finishing departures.

Owns when. One process does it for all; that two do would do no harm.
"""

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from homeserver.accounts.credentials import Clock
from homeserver.accounts.own_account import OwnAccount
from storage.expiry import ExpiryStore

_INTERVAL_SECONDS = 300.0


class Housekeeping:
    """Runs every five minutes, and at the start, between `start` and `stop`."""

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        expiry: ExpiryStore,
        own_account: OwnAccount,
        clock: Clock,
        my_turn: Callable[[float], Awaitable[bool]],
    ) -> None:
        """`my_turn`: whether this process is to do it for the next so many seconds."""
        self._my_turn = my_turn
        self._expiry = expiry
        self._own_account = own_account
        self._clock = clock
        self._loop: LoopingCall = LoopingCall(lambda: Deferred.fromCoroutine(self._tick()))
        self._loop.clock = reactor
        self._running: Deferred[LoopingCall] | None = None

    def start(self) -> None:
        """Begin."""
        self._running = self._loop.start(_INTERVAL_SECONDS)

    async def stop(self) -> None:
        """Begin no further round, and wait for one under way."""
        if self._loop.running:
            self._loop.stop()
        if self._running is not None:
            await self._running

    async def run(self) -> None:
        """One round."""
        await self._expiry.sweep(self._clock())
        await self._own_account.finish_departures()

    async def _tick(self) -> None:
        try:
            if await self._my_turn(0.9 * _INTERVAL_SECONDS):
                await self.run()
        except Exception:
            self._log.failure("housekeeping of accounts failed; it is tried again")
