# SPDX-License-Identifier: Apache-2.0
"""When other servers are asked for history, how often, and how long anybody waits for it.

Owns that one thing is asked for once at a time however many want it, that it goes on when they tire of waiting, that
not too much is under way at once, and remembering what is not to be had. Implements `MissingHistory` of
`homeserver.rooms.reading`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Final, TypeVar

from prometheus_client import Counter
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as TookTooLong

from federation.client.calls import FederationCalls
from federation.client.errors import RemoteFailure
from federation.history.backfilling import Backfiller
from federation.history.candidates import Candidates
from federation.history.placing import HistoryPlacer, Placing
from federation.inbound.budgets import Budget, OverBudget
from federation.inbound.missing import EventFetcher
from homeserver.errors import RemoteServerFailed
from homeserver.needs import Protocol
from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.identifiers import check_event_id
from homeserver.rooms.engine import Room, RoomHead
from homeserver.rooms.reading.missing_history import Filled, Filling
from storage.gaps import GapStore

T = TypeVar("T")

log = logging.getLogger(__name__)

_ASKED = Counter(
    "lares_federation_history", "Times other servers were asked for history, by outcome", ["outcome"]
)

AT_ONCE: Final = 8
"""Pieces of work under way in this process."""
MOST_WAITING: Final = 200
"""Pieces of work that have not begun; more are not taken on."""
MOST_GAPS: Final = 100
"""Gaps looked at for one page."""
MOST_NAMED: Final = 20
"""Missing events named in one request."""
LOST_FOR: Final = 1800.0
"""Seconds for which what every server said not to have is not asked for again."""
UNREACHED_FOR: Final = 60.0
"""The same where a server could not be asked."""
MOST_LOST: Final = 20_000
LONGEST: Final = 90.0
"""Seconds after which a piece of work is given up, whatever it waits for."""
SERVERS_BY_TIME: Final = 3


def history_budget(clock: Callable[[], float]) -> Budget:
    """What one page of history may cost."""
    return Budget(clock, requests=150, events=100_000, size=48 << 20, seconds=60.0)


class WholeRooms(Protocol):
    """Waits until all members of a room are known; `homeserver.rooms.whole_rooms.WholeRooms` is one."""

    async def get(self, room_id: str) -> Room | None: ...


class RemoteHistory:
    """One per process. `stop` it before the database."""

    def __init__(
        self,
        reactor: Any,
        *,
        calls: FederationCalls,
        backfiller: Backfiller,
        fetcher: EventFetcher,
        placer: HistoryPlacer,
        candidates: Candidates,
        gaps: GapStore,
        whole: WholeRooms,
        server_name: str,
    ) -> None:
        self._reactor = reactor
        self._calls = calls
        self._backfiller = backfiller
        self._fetcher = fetcher
        self._placer = placer
        self._candidates = candidates
        self._gaps = gaps
        self._whole = whole
        self._server_name = server_name
        self._under_way: dict[Hashable, _Work] = {}
        self._turns = DeferredSemaphore(AT_ONCE)
        self._lost: OrderedDict[tuple[int, str], float] = OrderedDict()
        """Until when (seconds) events of rooms are not asked for."""

    async def stop(self) -> None:
        """End what is under way; what it had stored stays."""
        for work in list(self._under_way.values()):
            work.running.cancel()

    # What reading asks (`MissingHistory`)

    def obtainable(self, room: Room) -> bool:
        """See `MissingHistory`."""
        head = room.head
        return head.has_other_hosts(self._server_name) and head.is_resident(self._server_name)

    async def fill(self, room: Room, *, upto: int, above: int, patience: float) -> Filled:
        """See `MissingHistory`."""
        gaps = await self._gaps.upto(room.key, min(upto, 2**62), MOST_GAPS)
        open_gaps = [gap for gap in gaps if not self._is_lost(room.key, gap.missing_event_id)]
        reach = [gap for gap in open_gaps if gap.depth > above]
        if not reach:
            below = next((gap.depth for gap in open_gaps if gap.depth <= above), None)
            return Filled(Filling.LOST, below)
        missing: dict[str, int] = {}
        for gap in reach:
            missing[gap.missing_event_id] = max(gap.depth, missing.get(gap.missing_event_id, 0))
            if len(missing) == MOST_NAMED:
                break

        async def work() -> bool | None:
            head = await self._whole_head(room)
            return None if head is None else await self._fill(head, missing)

        stored = await self._shared((room.key, reach[0].missing_event_id), work, patience)
        if stored is None:
            return Filled(Filling.UNDER_WAY)
        if stored:
            return Filled(Filling.FILLED)
        below = next((gap.depth for gap in open_gaps if gap.depth <= above), None)
        return Filled(Filling.LOST, below)

    async def find(self, room: Room, event_id: str, *, patience: float) -> bool:
        """See `MissingHistory`."""
        try:
            check_event_id(event_id)
        except IdentifierError:
            return False
        if "\0" in event_id or self._is_lost(room.key, event_id):
            return False

        async def work() -> bool | None:
            head = await self._whole_head(room)
            return None if head is None else await self._find(head, event_id)

        return bool(await self._shared((room.key, event_id, "alone"), work, patience))

    async def find_by_time(self, room: Room, timestamp: int, *, backwards: bool, patience: float) -> bool:
        """See `MissingHistory`."""
        if not -(2**53) < timestamp < 2**53:
            return False

        async def work() -> bool | None:
            head = await self._whole_head(room)
            return None if head is None else await self._find_by_time(head, timestamp, backwards=backwards)

        return bool(await self._shared((room.key, timestamp, backwards), work, patience))

    # The work

    async def _whole_head(self, room: Room) -> RoomHead | None:
        """The room, once its members are known: events of those who are not yet would be rejected for good."""
        try:
            whole = await self._whole.get(room.room_id)
        except RemoteServerFailed:
            return None
        return None if whole is None else whole.head

    async def _fill(self, head: RoomHead, missing: dict[str, int]) -> bool:
        budget = history_budget(self._reactor.seconds)
        stored = await self._in_time(self._backfiller.fill(head, missing, budget))
        _ASKED.labels("stored" if stored else "unreachable" if stored is None else "nothing").inc()
        still = await self._gaps.missing(head.room, list(missing))
        if not stored:
            for event_id in still:
                self._lose(head.room, event_id, UNREACHED_FOR if stored is None else LOST_FOR)
        elif len(still) == len(missing):
            # Something was stored that leads nowhere: do not ask for the same thing for ever.
            for event_id in still:
                self._lose(head.room, event_id, UNREACHED_FOR)
        return bool(stored)

    async def _find(self, head: RoomHead, event_id: str) -> bool:
        stored = await self._in_time(self._fetch_alone(head, event_id))
        _ASKED.labels("found" if stored else "not_found").inc()
        if not stored:
            self._lose(head.room, event_id, UNREACHED_FOR)
        return bool(stored)

    async def _fetch_alone(self, head: RoomHead, event_id: str) -> bool:
        """Whether the event is stored now, as one of the past: below a gap. What is not is on its way here as news."""
        servers = self._candidates.of(head)
        budget = history_budget(self._reactor.seconds)
        try:
            found = await self._fetcher.fetch_events(
                head.room_id, head.version, [event_id], servers, budget=budget
            )
            incoming = found.get(event_id)
            if incoming is None:
                return False
            if not await self._gaps.is_history(head.room, incoming.event.depth, self._server_name):
                return await self._led_to(head, incoming.event.depth)
            placing = Placing(head.room_id, head.version, servers, budget)
            return bool(await self._placer.place(placing, found))
        except OverBudget as error:
            log.info("%s costs too much: %s", event_id, error)
            return False

    async def _led_to(self, head: RoomHead, depth: int) -> bool:
        """Whether something was stored of what leads back from the gaps of this server's own time. Of what is below
        them by depth only that is history: the rest is beside them, and on its way here as news."""
        gaps = await self._gaps.upto(head.room, 2**62, MOST_GAPS)
        missing = {gap.missing_event_id: gap.depth for gap in gaps if gap.depth > depth}
        named = dict(list(missing.items())[-MOST_NAMED:])  # those nearest to it
        return bool(named) and await self._fill(head, named)

    async def _find_by_time(self, head: RoomHead, timestamp: int, *, backwards: bool) -> bool:
        for server in self._candidates.of(head)[:SERVERS_BY_TIME]:
            try:
                nearest = await self._calls.timestamp_to_event(
                    server, head.room_id, timestamp, "b" if backwards else "f"
                )
                check_event_id(nearest.event_id)
            except (RemoteFailure, IdentifierError) as error:
                log.debug("no event of %s by its time: %s", head.room_id, error)
                continue
            if "\0" in nearest.event_id or self._is_lost(head.room, nearest.event_id):
                continue
            if await self._find(head, nearest.event_id):
                return True
        return False

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What the work gives; None if it takes far too long."""
        try:
            return await Deferred.fromCoroutine(work).addTimeout(LONGEST, self._reactor)
        except TookTooLong:
            return None

    # Once at a time

    async def _shared(
        self, key: Hashable, make: Callable[[], Awaitable[bool | None]], patience: float
    ) -> bool | None:
        """What the work gives that is under way for the key, begun if there is none; None if it takes too long, or must
        be begun again."""
        work = self._under_way.get(key)
        if work is None:
            if len(self._under_way) >= AT_ONCE + MOST_WAITING:
                return None
            work = self._under_way[key] = _Work()
            work.running = Deferred.fromCoroutine(self._run(key, work, make))
        if work.done:
            return work.result
        waiter: Deferred[bool | None] = Deferred()
        work.waiters.append(waiter)
        try:
            return await waiter.addTimeout(patience, self._reactor)
        except TookTooLong:
            return None

    async def _run(self, key: Hashable, work: _Work, make: Callable[[], Awaitable[bool | None]]) -> None:
        try:
            await self._turns.acquire()
            try:
                work.result = await make()
            finally:
                self._turns.release()
        except CancelledError:
            work.result = False
        except Exception:
            # The page is answered with what there is; whatever ails the database is told by what else needs it.
            log.exception("asking for history failed")
            work.result = False
        finally:
            work.done = True
            self._under_way.pop(key, None)
            waiters, work.waiters = work.waiters, []
            for waiter in waiters:
                if not waiter.called:
                    waiter.callback(work.result)

    # What is not to be had

    def _lose(self, room: int, event_id: str, seconds: float) -> None:
        self._lost[room, event_id] = self._reactor.seconds() + seconds
        self._lost.move_to_end((room, event_id))
        while len(self._lost) > MOST_LOST:
            self._lost.popitem(last=False)

    def _is_lost(self, room: int, event_id: str) -> bool:
        until = self._lost.get((room, event_id))
        if until is None:
            return False
        if until > self._reactor.seconds():
            return True
        del self._lost[room, event_id]
        return False


class _Work:
    """One piece of work and who waits for it."""

    __slots__ = ("done", "result", "running", "waiters")

    def __init__(self) -> None:
        self.running: Deferred[None] = Deferred()
        self.waiters: list[Deferred[bool | None]] = []
        self.done = False
        self.result: bool | None = False
