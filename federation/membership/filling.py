# SPDX-License-Identifier: Apache-2.0
"""Filling rooms that were entered by a short answer, in the background: asking for the whole state, then completing.

Which rooms there are is in the database, so a restart forgets none; a lease keeps it to one process per room. Owns the
asking again and again; fetching is `whole_state`'s, completing `homeserver.rooms.arrival`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import Counter
from twisted.internet.defer import CancelledError, Deferred

from federation.inbound.budgets import Budget
from federation.membership.whole_state import FetchedState
from homeserver.needs import Protocol
from homeserver.protocol.events import Event
from homeserver.rooms.engine import Room, RoomCache
from storage.database import DatabaseFailure
from storage.partial_rooms import PartialRoom, PartialRoomStore

logger = logging.getLogger(__name__)

_FILLED = Counter("lares_federation_rooms_filled", "Rooms entered by a short answer, by attempt", ["outcome"])

LEASE = 120.0
"""Seconds a process may be silent about a room before another takes it."""
LONGEST_SLEEP = 60.0
"""Another process may have entered a room and died."""
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 3600.0
WHILE_AWAY = 24 * 3600.0
"""A room that everybody here has left is told to nobody; coming back begins it anew."""


class StateSource(Protocol):
    """Has the state before a join stored; `WholeState` does."""

    async def fetch(
        self, room: Room, entered: PartialRoom, servers: Sequence[str], budget: Budget
    ) -> FetchedState: ...


class Completing(Protocol):
    """Completes rooms; `RoomCompletion` does."""

    async def complete(
        self, entered: PartialRoom, state_ids: Sequence[str], members: Mapping[int, Event] = ...
    ) -> None: ...


class PartialFiller:
    """One per process."""

    def __init__(
        self,
        *,
        partial: PartialRoomStore,
        state: StateSource,
        completion: Completing,
        cache: RoomCache,
        server_name: str,
        scheduler: Any,
    ) -> None:
        """`scheduler` is the reactor: it has `callLater` and `seconds`."""
        self._partial = partial
        self._state = state
        self._completion = completion
        self._cache = cache
        self._server_name = server_name
        self._scheduler = scheduler
        self._running: Deferred[None] | None = None
        self._sleeping: Deferred[None] | None = None
        self._stopped = False
        self._awake = False

    def start(self) -> None:
        """Begin, with what was left unfinished."""
        self._stopped = False
        self._running = Deferred.fromCoroutine(self._run())

    async def stop(self) -> None:
        """End; what is under way is taken up again by whoever comes first."""
        self._stopped = True
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            try:
                await running
            except CancelledError:
                return

    def wake(self) -> None:
        """There is a room to fill."""
        self._awake = True
        sleeping, self._sleeping = self._sleeping, None
        if sleeping is not None:
            sleeping.callback(None)

    async def _run(self) -> None:
        while self._goes_on():
            self._awake = False
            try:
                entered = await self._take()
                if entered is not None:
                    await self._fill(entered)
                    continue
                due = await self._partial.seconds_until_due()
            except DatabaseFailure as failure:
                logger.warning("rooms cannot be filled without the database: %s", failure)
                due = FIRST_PAUSE
            except Exception as error:
                if isinstance(error, CancelledError) and not self._goes_on():
                    raise
                # Nobody starts this again: a disk that is full, or a standby that is asked to write, will pass.
                logger.exception("rooms cannot be filled at the moment")
                due = FIRST_PAUSE
            if not self._awake and self._goes_on():
                await self._sleep(LONGEST_SLEEP if due is None else min(max(due, 0.5), LONGEST_SLEEP))

    def _goes_on(self) -> bool:
        return not self._stopped

    async def _take(self) -> PartialRoom | None:
        """Not cut off by a stop: a room that was leased to nobody would wait until the lease lapses."""
        taking = Deferred.fromCoroutine(self._partial.take(LEASE))
        taken: Deferred[None] = Deferred()

        def tell(result: Any) -> Any:
            if not taken.called:
                taken.callback(None)
            return result

        taking.addBoth(tell)
        try:
            await taken
        except CancelledError:
            entered = await taking
            if entered is not None:
                await self._partial.release(entered)
            raise
        return await taking

    async def _fill(self, entered: PartialRoom) -> None:
        beating = self._beat(entered)
        try:
            # Entered by another process just now, it may be known here as one that everybody has left.
            self._cache.mark_stale(entered.room_id)
            room = await self._cache.get(entered.room_id)
            if room is None or not room.head.is_resident(self._server_name):
                await self._partial.postpone(entered, WHILE_AWAY)
                return
            await self._complete(room, entered)
        except CancelledError:
            await self._partial.release(entered)
            raise
        except DatabaseFailure:
            raise
        except Exception as error:
            pause = min(FIRST_PAUSE * 2.0 ** min(entered.attempts, 20), LONGEST_PAUSE)
            logger.info(
                "room %s is not whole yet, again in %.0f s: %s: %s",
                entered.room_id,
                pause,
                type(error).__name__,
                error,
            )
            _FILLED.labels("failed").inc()
            await self._partial.postpone(entered, pause)
        else:
            _FILLED.labels("filled").inc()
        finally:
            beating.stop()

    async def _complete(self, room: Room, entered: PartialRoom) -> None:
        # Who let us in may have named nobody else; whoever sends events meanwhile is there, too.
        hosts = sorted(room.head.other_hosts(self._server_name))
        servers = list(dict.fromkeys((entered.destination, *entered.servers, *hosts)))
        # The first attempts keep to the server that let us in; later ones begin with others, too.
        turn = entered.attempts % len(servers) if entered.attempts > 2 else 0
        logger.info("filling room %s by way of %s", entered.room_id, servers[turn])
        state = await self._state.fetch(
            room,
            entered,
            [name for name in (*servers[turn:], *servers[:turn]) if name != self._server_name],
            Budget(self._scheduler.seconds, requests=20_000, events=1_000_000, size=1 << 30, seconds=3600.0),
        )
        await self._completion.complete(entered, state.event_ids, state.members)

    def _beat(self, entered: PartialRoom) -> _Heart:
        return _Heart(self._partial, entered, self._scheduler)

    async def _sleep(self, seconds: float) -> None:
        self._sleeping = Deferred()
        timer = self._scheduler.callLater(seconds, self.wake)
        try:
            await self._sleeping
        finally:
            self._sleeping = None
            if timer.active():
                timer.cancel()


class _Heart:
    """Renews a lease until stopped."""

    def __init__(self, partial: PartialRoomStore, entered: PartialRoom, scheduler: Any) -> None:
        self._partial = partial
        self._entered = entered
        self._scheduler = scheduler
        self._timer = scheduler.callLater(LEASE / 3, self._beat)

    def _beat(self) -> None:
        self._timer = self._scheduler.callLater(LEASE / 3, self._beat)
        Deferred.fromCoroutine(self._partial.renew(self._entered, LEASE)).addErrback(
            lambda failure: logger.info("a lease was not renewed: %s", failure.value)
        )

    def stop(self) -> None:
        if self._timer.active():
            self._timer.cancel()
