# SPDX-License-Identifier: Apache-2.0
"""Events of a transaction on their way into their rooms.

Owns which events of which server a room takes at all (who is in it, access control lists), the order within a room and
the fairness between servers and rooms. An event whose parents are known is in the room when its sender is answered;
any other waits in the backlog, and so does one whose room is slow to take it, or slow to be joined, so that no room
holds up another.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from prometheus_client import Counter
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong

from federation.inbound.early import Strays
from federation.inbound.live_rooms import Arrivals, LiveRoom, LiveRooms
from federation.inbound.ordering import by_prev, named_first
from federation.inbound.reading import PduReader
from homeserver.needs import Protocol
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from storage.database import ConnectionLost, DatabaseUnavailable, LockTimeout, StatementTimeout, is_retryable

log = logging.getLogger(__name__)

_EVENTS = Counter("lares_inbound_events", "Events other servers sent, by what became of them", ["outcome"])

AT_ONCE: Final = 50
"""Events handed to a room together."""
MOST_QUEUED: Final = 500
"""Events queued for one room in memory; what comes beyond waits in the backlog."""
PATIENCE: Final = 10.0
"""Seconds until events that their room has not taken are left to the backlog."""
ARRIVAL_PATIENCE: Final = 10.0
"""Seconds that the first events of a room that is being joined are held; then it is slow, and all are kept at once."""

_NO_DATABASE: Final = (ConnectionLost, DatabaseUnavailable, LockTimeout, StatementTimeout)

Errors = dict[str, str | None]
"""Event id → why it was not taken, None if it was."""


class EventIntake(Protocol):
    """What `homeserver.rooms.intake.RoomIntake` is asked to do here."""

    async def receive(self, room_id: str, events: Sequence[Incoming]) -> list[Verdict]: ...


class Waiting(Protocol):
    """See `federation.inbound.backlog.Backlog`."""

    async def keep(
        self, origin: str, room_id: str, events: Sequence[Incoming], *, early: bool = False
    ) -> set[str]: ...


class InboundRooms:
    """One per process."""

    def __init__(
        self,
        reactor: Any,
        *,
        rooms: LiveRooms,
        reader: PduReader,
        intake: EventIntake,
        backlog: Waiting,
        arrivals: Arrivals,
        strays: Strays,
        server_name: str,
    ) -> None:
        self._reactor = reactor
        self._rooms = rooms
        self._reader = reader
        self._intake = intake
        self._backlog = backlog
        self._arrivals = arrivals
        self._strays = strays
        self._server_name = server_name
        self._queues: dict[str, _RoomQueue] = {}
        self._slow_joins: set[str] = set()

    async def take_in(self, origin: str, room_id: str, pdus: Sequence[Mapping[str, Any]]) -> Errors:
        """What became of PDUs that claim to be of the room; those without a recognizable id are absent."""
        room = await self._rooms.get(room_id)
        if room is None or not room.head.is_resident(self._server_name):
            await self._arrived(room_id)
            version = self._arrivals.version(room_id)
            room = await self._rooms.get(room_id)  # a join may have ended while it was looked at
            if version is not None and (room is None or not room.head.is_resident(self._server_name)):
                return await self._came_early(origin, room_id, version, pdus)
        if room is None:
            return dict.fromkeys(_claimed_ids(pdus), "This server is not in the room")
        head = room.head
        if not head.server_acl.allows(origin):
            return await self._refused(head, pdus, "The room's access control list shuts your server out")
        resident = head.is_resident(self._server_name)
        if not resident and not any(pdu.get("type") == "m.room.member" for pdu in pdus):
            return await self._refused(head, pdus, "This server is not in the room")
        good, errors = await self._read(origin, room_id, head.version, pdus)
        if not resident:
            return errors | await self._strayed(origin, good)
        return errors | await self._queued(origin, room_id, good)

    async def _read(
        self, origin: str, room_id: str, version: RoomVersion, pdus: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Incoming], Errors]:
        errors: Errors = {}
        good: dict[str, Incoming] = {}
        # Not 429 where keys are long in coming: whoever has his servers join a room by way of another would stop all
        # that the other sends here.
        for read in await self._reader.read(
            version, pdus, room_id=room_id, asker=origin, clock=self._reactor
        ):
            if read.incoming is not None:
                good[read.incoming.event.event_id] = read.incoming
                errors[read.incoming.event.event_id] = None
            elif read.event_id is not None and read.event_id not in good:
                errors[read.event_id] = read.refusal
                log.info("%s from %s is refused: %s", read.event_id, origin, read.refusal)
            _EVENTS.labels("good" if read.incoming is not None else "refused").inc()
        return good, errors

    async def _arrived(self, room_id: str) -> None:
        """Wait for the room to be joined, if it is and was not seen to be slow."""
        if room_id in self._slow_joins:
            return
        joining = self._arrivals.under_way(room_id)
        if joining is None:
            return
        done: Deferred[None] = Deferred()

        async def wait() -> None:
            try:
                await joining
            except Exception as error:
                log.debug("a join that events waited for failed: %s", error)
            self._slow_joins.discard(room_id)
            if not done.called:
                done.callback(None)

        Deferred.fromCoroutine(wait())
        try:
            await done.addTimeout(ARRIVAL_PATIENCE, self._reactor)
        except TookTooLong:
            self._slow_joins.add(room_id)

    async def _came_early(
        self, origin: str, room_id: str, version: RoomVersion, pdus: Sequence[Mapping[str, Any]]
    ) -> Errors:
        """Events of a room that is being joined still, and may for long: they wait until it is.

        To refuse them would be to lose them, as servers send nothing again that was answered.
        """
        good, errors = await self._read(origin, room_id, version, pdus)
        return errors | await self._left_waiting(origin, room_id, list(good.values()), early=True)

    async def _refused(self, head: LiveRoom, pdus: Sequence[Mapping[str, Any]], reason: str) -> Errors:
        found = await self._reader.event_ids(head.version, pdus)
        return {event_id: reason for event_id in found if event_id is not None}

    async def _strayed(self, origin: str, events: Mapping[str, Incoming]) -> Errors:
        errors: Errors = {}
        for event_id, incoming in events.items():
            taken = incoming.event.type == "m.room.member" and await self._strays.stray(origin, incoming)
            errors[event_id] = None if taken else "This server is not in the room"
        return errors

    async def _queued(self, origin: str, room_id: str, events: dict[str, Incoming]) -> Errors:
        ordered, circular = named_first(events, by_prev)
        errors: Errors = {each.event.event_id: "It comes before itself" for each in circular}
        if not ordered:
            return errors
        queue = self._queues.get(room_id)
        if queue is not None and queue.length >= MOST_QUEUED:
            return errors | await self._left_waiting(origin, room_id, ordered)
        if queue is None:
            queue = self._queues[room_id] = _RoomQueue(room_id)
        job = _Job(origin, ordered)
        queue.add(job)
        if not queue.running:
            queue.running = True
            Deferred.fromCoroutine(self._drain(queue))
        try:
            await job.done.addTimeout(PATIENCE, self._reactor)
        except TookTooLong:
            queue.withdraw(job)
        waiting = [
            each
            for each in ordered
            if job.outcomes.get(each.event.event_id, Outcome.MISSING) is Outcome.MISSING
        ]
        errors |= dict.fromkeys(job.outcomes)
        errors |= job.failed
        waiting = [each for each in waiting if each.event.event_id not in job.failed]
        return errors | await self._left_waiting(origin, room_id, waiting)

    async def _left_waiting(
        self, origin: str, room_id: str, events: Sequence[Incoming], *, early: bool = False
    ) -> Errors:
        if not events:
            return {}
        kept = await self._backlog.keep(origin, room_id, events, early=early)
        _EVENTS.labels("waiting").inc(len(kept))
        _EVENTS.labels("too_many").inc(len(events) - len(kept))
        return {
            each.event.event_id: None if each.event.event_id in kept else "Too many events are waiting here"
            for each in events
        }

    # A room's queue

    async def _drain(self, queue: _RoomQueue) -> None:
        while batch := queue.next_batch(AT_ONCE):
            events = {incoming.event.event_id: incoming for _, incoming in batch}
            outcomes, failures = await self._receive(queue.room_id, list(events.values()))
            for job, incoming in batch:
                event_id = incoming.event.event_id
                job.settle(event_id, outcomes.get(event_id, Outcome.MISSING), failures.get(event_id))
        queue.running = False
        if self._queues.get(queue.room_id) is queue:
            del self._queues[queue.room_id]

    async def _receive(
        self, room_id: str, events: Sequence[Incoming]
    ) -> tuple[dict[str, Outcome], dict[str, Exception]]:
        """Outcomes by event id, and what failed here. An event that breaks the intake breaks nothing but itself."""
        try:
            verdicts = await self._intake.receive(room_id, events)
        except Exception as error:
            later = _is_for_later(error)
            if len(events) == 1 or later or isinstance(error, CancelledError):
                if not later:
                    log.exception("taking in %s failed", events[0].event.event_id)
                return {}, {each.event.event_id: error for each in events}
        else:
            return {verdict.event_id: verdict.outcome for verdict in verdicts}, {}
        outcomes: dict[str, Outcome] = {}
        failures: dict[str, Exception] = {}
        for each in events:
            one, failed = await self._receive(room_id, [each])
            outcomes |= one
            failures |= failed
        return outcomes, failures


def _is_for_later(error: Exception) -> bool:
    """Whether the database was at fault: nothing is known against the event. One that is too slow for it by itself has
    gone to those that wait long before.
    """
    return isinstance(error, _NO_DATABASE) or is_retryable(error)


class _Job:
    """Events of one server for one room. `done` fails if the database did."""

    __slots__ = ("done", "events", "failed", "left", "origin", "outcomes")

    def __init__(self, origin: str, events: Sequence[Incoming]) -> None:
        self.origin = origin
        self.events = deque(events)
        self.left = len(events)
        self.outcomes: dict[str, Outcome] = {}
        self.failed: Errors = {}
        self.done: Deferred[None] = Deferred()

    def settle(self, event_id: str, outcome: Outcome, failure: Exception | None) -> None:
        self.left -= 1
        if failure is not None and _is_for_later(failure):
            if not self.done.called:
                self.done.errback(failure)
            return
        if failure is not None:
            self.failed[event_id] = "This server failed to process the event"
        else:
            self.outcomes[event_id] = outcome
        if not self.left and not self.done.called:
            self.done.callback(None)


class _RoomQueue:
    """What waits for one room: servers take turns, each one's events keep their order."""

    def __init__(self, room_id: str) -> None:
        self.room_id = room_id
        self.running = False
        self.length = 0
        self._jobs: OrderedDict[str, deque[_Job]] = OrderedDict()

    def add(self, job: _Job) -> None:
        self._jobs.setdefault(job.origin, deque()).append(job)
        self.length += len(job.events)

    def withdraw(self, job: _Job) -> None:
        """Take back what has not been begun."""
        self.length -= len(job.events)
        job.events.clear()

    def next_batch(self, most: int) -> list[tuple[_Job, Incoming]]:
        """One event of each server in turn, until there are enough or no more."""
        batch: list[tuple[_Job, Incoming]] = []
        while self._jobs and len(batch) < most:
            origin, jobs = next(iter(self._jobs.items()))
            self._jobs.move_to_end(origin)
            while jobs and not jobs[0].events:
                jobs.popleft()
            if not jobs:
                del self._jobs[origin]
                continue
            batch.append((jobs[0], jobs[0].events.popleft()))
            self.length -= 1
        return batch


def _claimed_ids(pdus: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ids that PDUs carry (room versions 1 and 2), for rooms whose version is not known here."""
    found = (pdu.get("event_id") for pdu in pdus)
    return [each for each in found if type(each) is str and each.startswith("$")]
