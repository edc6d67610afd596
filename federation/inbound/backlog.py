# SPDX-License-Identifier: Apache-2.0
"""Events that were taken in and wait for others: kept durably, worked on in the background, given up in the end.

Owns who works when. An event is in the database before its sender is told that it has arrived; a room's events are
worked on by one process at a time, under a lease that lapses with the process, and one after another, servers taking
turns. How an event gets what it lacks is `gaps`'.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from prometheus_client import Counter
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.task import LoopingCall

from federation.inbound.budgets import Budget, OriginCosts, OverBudget
from federation.inbound.gaps import held
from federation.inbound.live_rooms import LiveRoom, LiveRooms
from federation.inbound.missing import NotToBeHad
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from storage.inbound_pdus import InboundPduStore, WaitingPdu

log = logging.getLogger(__name__)

_ATTEMPTS = Counter(
    "lares_inbound_waiting_attempts", "Attempts at events that wait for others, by outcome", ["outcome"]
)

MOST_PER_ROOM: Final = 1000
MOST_PER_ORIGIN: Final = 1000
ROOMS_AT_ONCE: Final = 16
DELAYS: Final = (10.0, 60.0, 600.0, 3600.0)
"""Seconds before an event is tried again; after the last it is given up."""
BRIDGED_FROM: Final = 2
"""Attempts after which an event is not kept waiting for a server that is not reached, if others can tell a state."""
LOOK_EVERY: Final = 20.0
"""Seconds between looks for what other processes left behind."""
NEXT_AFTER: Final = 5.0
"""Seconds until a room's next server has its turn though the one before is not done: with a good server the first finds
what the others lack as well, so they wait that long."""
SLOW_AT_ONCE: Final = 4
SECOND_COST: Final = 250.0
"""What a second of work costs a server: one that only keeps us waiting is soon in debt as well."""
_PORTION: Final = 20
_PATIENCE: Final = 240.0
"""Seconds for one event, come what may: beyond what its budget allows, within the lease."""
_LEASE: Final = 300.0
_OTHER_SERVERS: Final = 2


class Filler(Protocol):
    """See `federation.inbound.gaps.GapFiller`."""

    async def fill(
        self, room: LiveRoom, incoming: Incoming, servers: Sequence[str], budget: Budget, *, bridging: bool
    ) -> Verdict: ...


class Early(Protocol):
    """See `federation.inbound.early.EarlyEvents`."""

    async def settled(self, room_id: str) -> None: ...
    async def admit(self, room_id: str) -> None: ...


class Backlog:
    """One per process; `worker` tells it from the others."""

    def __init__(
        self,
        reactor: Any,
        *,
        store: InboundPduStore,
        filler: Filler,
        early: Early,
        rooms: LiveRooms,
        costs: OriginCosts,
        new_budget: Callable[[], Budget],
        server_name: str,
        worker: str,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._filler = filler
        self._early = early
        self._rooms = rooms
        self._costs = costs
        self._new_budget = new_budget
        self._server_name = server_name
        self._worker = worker
        self._slots = DeferredSemaphore(ROOMS_AT_ONCE)
        self._running: dict[str, Deferred[None]] = {}
        self._unsettled: set[str] = set()
        """Those that it is waited for first whether this server comes into the room."""
        self._news: dict[str, Deferred[None]] = {}
        """Fired when something new is kept for a room that is being worked on."""
        self._again: set[str] = set()
        """Those for which something was kept since they were last begun with, at a moment when nobody listened to that:
        it may have been looked already whether anything is left."""
        self._stopping = False
        self._loop: LoopingCall = LoopingCall(lambda: Deferred.fromCoroutine(self._look()))
        self._loop.clock = reactor

    # From outside

    async def keep(
        self, origin: str, room_id: str, events: Sequence[Incoming], *, early: bool = False
    ) -> set[str]:
        """Have the events wait, durably; gives the ids of those that do. The others are too many.

        `early`: this server is only about to be in the room.
        """
        kept = await self._store.keep(
            room_id,
            origin,
            [(each.event.event_id, each.event.depth, each.json) for each in events],
            per_room=MOST_PER_ROOM,
            per_origin=MOST_PER_ORIGIN,
            early=early,
        )
        if kept:
            self._wake(room_id)
        return kept

    def reachable(self, server: str) -> None:
        """The server could not be asked, and may be now: its events are looked at again at once."""
        if not self._stopping:
            Deferred.fromCoroutine(self._hasten(server))

    def start(self) -> None:
        """Take up what an earlier run left, and look again from time to time."""
        self._loop.start(LOOK_EVERY)

    async def stop(self) -> None:
        """Leave what is under way to be taken up again."""
        self._stopping = True
        if self._loop.running:
            self._loop.stop()
        running = list(self._running.values())
        for each in running:
            each.cancel()
        await DeferredList(running, consumeErrors=True)

    async def idle(self) -> None:
        """Wait until nothing is being worked on."""
        while self._running:
            done: Deferred[None] = Deferred()
            next(iter(self._running.values())).addBoth(_passing_on(done))
            await done

    # Rooms

    async def _hasten(self, server: str) -> None:
        try:
            for room_id in await self._store.hasten(server):
                self._wake(room_id)
        except Exception:
            log.warning("events of %s wait longer than they need to", server, exc_info=True)

    async def _look(self) -> None:
        try:
            for room_id in await self._store.due_rooms(ROOMS_AT_ONCE * 2 + len(self._unsettled)):
                self._wake(room_id)
        except Exception:
            log.exception("looking for waiting events failed; it is tried again")

    def _wake(self, room_id: str) -> None:
        if self._stopping:
            return
        if room_id in self._running:
            news = self._news.get(room_id)
            if news is None:
                self._again.add(room_id)
            elif not news.called:
                news.callback(None)
            return
        running = Deferred.fromCoroutine(self._work_in(room_id))
        if not running.called:
            self._running[room_id] = running

    async def _work_in(self, room_id: str) -> None:
        """Work on a room until nothing is there to be done that another process has not in hand."""
        try:
            going_on = True
            while going_on:
                await self._settled(room_id)
                await self._slots.acquire()
                self._again.discard(room_id)
                try:
                    going_on = await self._work_leased(room_id) or room_id in self._again
                finally:
                    self._slots.release()
        except CancelledError:
            if not self._stopping:
                raise
        except Exception:
            log.exception("working on waiting events of %s failed; it is tried again", room_id)
        finally:
            self._running.pop(room_id, None)
            self._again.discard(room_id)

    async def _work_leased(self, room_id: str) -> bool:
        """Whether there is more to do afterwards."""
        if not await self._store.lease(room_id, self._worker, _LEASE):
            return False
        try:
            await self._early.admit(room_id)
            await self._clear(room_id)
        finally:
            await self._store.release(room_id, self._worker)
        return bool(await self._store.due(room_id, 1) or await self._store.early(room_id, 1))

    async def _settled(self, room_id: str) -> None:
        """Wait, without holding up others, until this server is in the room or does not come in."""
        self._unsettled.add(room_id)
        try:
            await self._early.settled(room_id)
        finally:
            self._unsettled.discard(room_id)

    async def _clear(self, room_id: str) -> None:
        """Work through what is due, one event after another; but one of a slow server is not waited for."""
        slow: dict[str, Deferred[None]] = {}
        try:
            while True:
                for origin in [origin for origin, work in slow.items() if work.called]:
                    await slow.pop(origin)
                news = self._news[room_id] = Deferred[None]()
                due = await self._store.due(room_id, _PORTION)
                chosen = next((each for each in due if each.origin not in slow), None)
                if chosen is not None and len(slow) < SLOW_AT_ONCE:
                    work = slow[chosen.origin] = Deferred.fromCoroutine(self._take_turn(room_id, chosen))
                    await self._soon(work)
                elif slow:
                    await self._next(slow, news)
                else:
                    return
        finally:
            self._news.pop(room_id, None)
            for work in slow.values():
                work.addErrback(lambda _failure: None)
                work.cancel()

    async def _next(self, slow: Mapping[str, Deferred[None]], news: Deferred[None]) -> None:
        """Wait until one of the slow is done or, where there is room for one more, something new may be there to do:
        what another process kept, which nobody tells here, is looked for."""
        if len(slow) < SLOW_AT_ONCE:
            await self._soon(*slow.values(), news)
            return
        done: Deferred[None] = Deferred()
        for work in slow.values():
            work.addBoth(_passing_on(done))
        await done

    async def _soon(self, *works: Deferred[None]) -> None:
        """Wait for one of these to end, but not for long."""
        done: Deferred[None] = Deferred()
        for work in works:
            work.addBoth(_passing_on(done))
        try:
            await done.addTimeout(NEXT_AFTER, self._reactor)
        except TookTooLong:
            return

    async def _take_turn(self, room_id: str, waiting: WaitingPdu) -> None:
        room = await self._rooms.get(room_id)
        if room is None or not room.head.is_resident(self._server_name):
            count = await self._store.drop_room(room_id)
            log.info("%d waiting events of %s are dropped: nobody here is in it", count, room_id)
            return
        await self._store.lease(room_id, self._worker, _LEASE)
        await self._work_on(room.head, waiting)

    # One event

    async def _work_on(self, room: LiveRoom, waiting: WaitingPdu) -> None:
        ids = (waiting.event_id,)
        seconds = self._costs.wait(waiting.origin)
        if seconds:
            await self._store.postpone(room.room_id, ids, seconds + 1.0, attempts=0)
            return
        budget, began = self._new_budget(), self._reactor.seconds()
        try:
            reason = await self._attempt(room, waiting, budget)
        finally:
            seconds = self._reactor.seconds() - began
            self._costs.charge(waiting.origin, budget.spent + SECOND_COST * seconds)
        if reason is None:
            _ATTEMPTS.labels("placed").inc()
            await self._store.drop(room.room_id, ids)
        elif waiting.attempts < len(DELAYS):
            _ATTEMPTS.labels("postponed").inc()
            delay = DELAYS[waiting.attempts] * random.uniform(0.8, 1.2)
            await self._store.postpone(room.room_id, ids, delay, attempts=1)
        else:
            _ATTEMPTS.labels("given_up").inc()
            await self._store.drop(room.room_id, ids)
            log.warning(
                "gave up an event whose place cannot be found: %s",
                reason,
                extra={
                    "fields": {
                        "event": waiting.event_id,
                        "room": room.room_id,
                        "origin": waiting.origin,
                    }
                },
            )

    async def _attempt(self, room: LiveRoom, waiting: WaitingPdu, budget: Budget) -> str | None:
        """Why the event still waits; None if it does not."""
        incoming = held(waiting, room.version)
        servers = self._servers(room, waiting.origin, incoming)
        bridging = waiting.attempts >= BRIDGED_FROM
        filling = Deferred.fromCoroutine(
            self._filler.fill(room, incoming, servers, budget, bridging=bridging)
        )
        try:
            verdict = await filling.addTimeout(_PATIENCE, self._reactor)
        except CancelledError:
            raise
        except (OverBudget, NotToBeHad) as error:
            return str(error)
        except TookTooLong:
            return "no time left"
        except Exception:
            log.exception("finding the place of %s failed", waiting.event_id)
            return "a failure of this server"
        if verdict.outcome is Outcome.MISSING:
            return (
                verdict.reason
                or f"{len(verdict.missing_prev) + len(verdict.missing_auth)} events are missing"
            )
        return None

    def _servers(self, room: LiveRoom, origin: str, incoming: Incoming) -> list[str]:
        """Whom to ask: who sent it, who made it, then some of the others in the room."""
        others = sorted(room.other_hosts(self._server_name))
        chosen = random.sample(others, min(_OTHER_SERVERS, len(others)))
        servers = dict.fromkeys((origin, domain_of(incoming.event.sender), *chosen))
        servers.pop(self._server_name, None)
        return list(servers)


def _passing_on(done: Deferred[None]) -> Callable[[Any], Any]:
    def pass_on(result: Any) -> Any:
        if not done.called:
            done.callback(None)
        return result

    return pass_on
