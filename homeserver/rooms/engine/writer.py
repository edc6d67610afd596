# SPDX-License-Identifier: Apache-2.0
"""One writer per active room: it drains the room's queue into batches, one on its way to the database at a time.

Plans run on the newest head, synchronously, right before their events are built; if the head turns out to have moved
(another process wrote the room), the room is loaded again and the plans run again. A plan that raises fails alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from time import monotonic
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred

from homeserver.errors import LimitExceeded, NotFound
from homeserver.events import RoomEvent
from homeserver.needs import Protocol
from homeserver.rooms.engine.cache import RoomCache
from homeserver.rooms.engine.drafts import SendTransaction
from homeserver.rooms.engine.head import concerned
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.queued import (
    Deed,
    HeadMoved,
    LoadFirst,
    Pending,
    Plan,
    Work,
    Written,
    sender_of,
)
from homeserver.rooms.engine.recommending import PolicyServers, sign_guarded
from homeserver.rooms.engine.rivalry import Later, contested, give_way
from homeserver.rooms.engine.room import Room
from homeserver.rooms.engine.turns import by_turns
from homeserver.rooms.engine.working import Guarded, MissingEvents, Signer, WorkingRoom
from homeserver.stream import Committer, RoomCommit
from storage.database import ConnectionLost
from storage.events import EventStore
from storage.stream import AlreadyStored

MAX_BATCH = 50
"""Events of a room in one commit."""
GUARDED_BATCH = 8
"""The same in a room with a policy server, which is asked about all of them at once."""
MOST_WAITING = 1000
"""Plans of one room that may wait: beyond, whoever asks is better served by knowing."""
BUSY_MS = 2000
"""Milliseconds that they are told to wait."""
GUARDED_TRIES = 10
"""As `MAX_TRIES`, where each round costs the policy server a request."""
MAX_TRIES = 200
"""Rounds of losing the race before a request is given up; each round somebody else's event was written.

So many, because two processes that write one room without a pause each lose every other round (see
`RoomCache.changed`), which takes a few milliseconds."""


class Listening(Protocol):
    """Users of this process who wait for news."""

    @property
    def users(self) -> Set[str]: ...


class WriterTools(Struct, frozen=True):
    """What every room's writer works with."""

    cache: RoomCache
    member_events: MemberEvents
    events: EventStore
    committer: Committer
    listening: Listening
    signer: Signer
    now: Callable[[], int]
    policy_servers: PolicyServers
    later: Later | None = None
    """Without, nobody is given way."""


class RoomWriter:
    """The queue of one room."""

    def __init__(self, room_id: str, tools: WriterTools, finished: Callable[[str], None]) -> None:
        self._room_id = room_id
        self._tools = tools
        self._finished = finished
        self._queue: list[Pending] = []
        self._running = False

    @property
    def waiting(self) -> int:
        """How much is in the queue."""
        return len(self._queue)

    def write(
        self, plan: Plan, users: Sequence[str], transaction: SendTransaction | None
    ) -> Deferred[Written]:
        """Queue a plan. `users` are those whose member events it will need. Raises LimitExceeded."""
        if len(self._queue) >= MOST_WAITING:
            raise LimitExceeded(BUSY_MS, "Too much is being sent to this room")
        return self._add(Pending(Deferred(), plan=plan, users=users, transaction=transaction))

    def do(self, work: Work, users: Sequence[str]) -> Deferred[Any]:
        """Queue work; gives what it returned."""
        return self._add(Pending(Deferred(), work=work, users=users))

    def do_alone(self, deed: Deed) -> Deferred[Any]:
        """Queue something that shares its turn with nothing else; gives what it returned."""
        return self._add(Pending(Deferred(), deed=deed))

    def _add(self, pending: Pending) -> Deferred[Any]:
        self._queue.append(pending)
        if not self._running:
            self._running = True
            Deferred.fromCoroutine(self._drain())
        return pending.done

    async def _drain(self) -> None:
        try:
            while self._queue:
                if self._tools.cache.has_rivals:
                    await give_way(self._tools.cache.held(self._room_id), self._tools.later)
                if contested(self._tools.cache.held(self._room_id)):
                    await self._tools.committer.turn()
                taken = self._take()
                try:
                    again = await self._write(taken)
                except Exception as error:
                    for pending in taken:
                        if not pending.done.called:
                            pending.done.errback(error)
                else:
                    self._queue[:0] = again
        finally:
            self._running = False
            self._finished(self._room_id)

    def _take(self) -> list[Pending]:
        """What goes into one batch: the first of the queue, and what is not too much together with it."""
        if len(self._queue) > MAX_BATCH:
            self._queue = by_turns(self._queue, sender_of)
        weight = count = 0
        held = self._tools.cache.held(self._room_id)
        most = MAX_BATCH if held is None or held.head.policy_server is None else GUARDED_BATCH
        for pending in self._queue:
            weight += 1 if pending.work is None else pending.work.weight
            alone = pending.deed is not None
            if count and (weight > most or alone):
                break
            count += 1
            if alone:
                break
        taken, self._queue = self._queue[:count], self._queue[count:]
        return taken

    async def _write(self, taken: list[Pending]) -> list[Pending]:
        """Write what can be written of these; return those to try again."""
        deed = taken[0].deed
        if deed is not None:
            taken[0].done.callback(await deed.run())
            return []
        room = await self._tools.cache.get(self._room_id)
        if room is None:
            raise NotFound("Unknown room")
        try:
            planned, working = await self._plan(room, taken)
        except HeadMoved:
            return await self._after_conflict([pending for pending in taken if not pending.done.called])
        refused = [pending for pending in taken if pending.refused is not None]
        if refused:
            await self._answer_refused(refused)
        guarded = working.guarded
        again: list[Pending] = []
        if guarded:
            planned, again = await self._signed(planned, working, guarded)
        if working.moving.is_empty:
            self._resolve(planned, ())
            return again
        committed = await self._commit(room, working)
        if committed:
            for pending in planned:
                if pending.work is not None:
                    pending.work.landed(room, working)
            self._resolve(planned, working.appended)
            return again
        tries = GUARDED_TRIES if guarded else MAX_TRIES
        return await self._after_conflict(planned, tries, base=working.moving.base) + again

    async def _plan(self, room: Room, taken: list[Pending]) -> tuple[list[Pending], WorkingRoom]:
        """Run the plans, one on top of the other, loading what they turn out to need."""
        tools = self._tools
        users = {user for pending in taken for user in pending.users}
        ordinals = {m.ordinal for m in map(room.head.members.get, users) if m is not None}
        loaded: dict[int, RoomEvent] = {}
        asked: set[int] = set()
        while True:
            asked |= ordinals
            for entry in await tools.member_events.load(room.key, self._room_id, room.head.version, ordinals):
                loaded[entry.stored.ordinal] = entry
            working = WorkingRoom(
                room.head,
                signer=tools.signer,
                member_events=tools.member_events,
                loaded=loaded,
                now=tools.now,
            )
            planned: list[Pending] = []
            lacking: list[Work] = []
            missing: set[int] = set()
            for pending in taken:
                if pending.done.called or pending.refused is not None:
                    continue
                try:
                    self._run(room, pending, working)
                except MissingEvents as needed:
                    missing.update(needed.ordinals)
                except LoadFirst:
                    assert pending.work is not None
                    lacking.append(pending.work)
                else:
                    planned.append(pending)
            for work in lacking:
                await work.load()
            if not missing and not lacking:
                return [p for p in planned if not p.done.called and p.refused is None], working
            if missing and missing <= asked:
                raise AssertionError(
                    f"events {missing} of {self._room_id} are named by its state but not stored"
                )
            ordinals = missing

    async def _signed(
        self, planned: list[Pending], working: WorkingRoom, guarded: Sequence[Guarded]
    ) -> tuple[list[Pending], list[Pending]]:
        """Have the policy server sign what was drafted; give what can be committed, and what must be planned anew.

        What it refuses is answered, and undone together with all that was drafted on top of it. The room's turn is kept
        meanwhile: another event of this process would take the drafts' place, and each would be asked about again.
        """
        failures = await sign_guarded(self._tools.policy_servers, working, guarded)
        good: list[Pending] = []
        again: list[Pending] = []
        refused: list[Pending] = []
        for pending in planned:
            pending.refused = next(
                (failures[n] for n in range(pending.first, pending.last) if n in failures), None
            )
            (refused if pending.refused is not None else again if refused else good).append(pending)
        if refused:
            assert refused[0].mark is not None
            working.moving.roll_back(refused[0].mark)
            await self._answer_refused(refused)
        return good, again

    async def _answer_refused(self, refused: list[Pending]) -> None:
        """What would be refused now was perhaps sent by the very same transaction, before the room changed."""
        standing = await self._standing(refused)
        for pending in refused:
            event_id = standing.get(pending.transaction.key) if pending.transaction is not None else None
            if pending.done.called:
                continue
            if event_id is not None:
                pending.done.callback(Written(replayed=event_id))
            else:
                pending.done.errback(pending.refused)

    async def _standing(self, pending: Iterable[Pending]) -> Mapping[str, str]:
        """Of their transactions those that stand, with the event id each gave."""
        keys = [each.transaction.key for each in pending if each.transaction is not None]
        return await self._tools.events.ids_by_transactions(keys) if keys else {}

    @staticmethod
    def _run(room: Room, pending: Pending, working: WorkingRoom) -> None:
        mark = pending.mark = working.moving.mark()
        pending.first = len(working.appended)
        try:
            if pending.work is not None:
                pending.outcome = pending.work.run(room, working)
            elif pending.plan is not None:
                for draft in pending.plan(working.head):
                    working.append(draft)
        except (MissingEvents, LoadFirst):
            working.moving.roll_back(mark)
            raise
        except Exception as error:
            working.moving.roll_back(mark)
            if pending.transaction is None:
                pending.done.errback(error)
            else:
                pending.refused = error
        pending.last = len(working.appended)

    async def _commit(self, room: Room, working: WorkingRoom) -> bool:
        tools = self._tools

        def landed(commit: RoomCommit) -> Iterable[str]:
            return self._land(room, working, commit)

        begun = monotonic() if tools.cache.has_rivals else 0.0
        try:
            commit = await tools.committer.commit_room(working.moving.batch(), landed)
        except ConnectionLost:
            return await self._find_out(room, working, landed)
        except AlreadyStored:
            return False
        if begun:
            room.took = monotonic() - begun
        return commit is not None

    async def _find_out(
        self, room: Room, working: WorkingRoom, landed: Callable[[RoomCommit], Iterable[str]]
    ) -> bool:
        """The connection broke during the commit: it stands if its events are there, each where it was to be.

        All of them are looked at, because an event from outside may be stored by another process.
        """
        tools = self._tools
        wanted = [entry.stored for entry in working.appended]
        found = await tools.events.by_ids([stored.event_id for stored in wanted])
        tools.cache.mark_stale(self._room_id)
        first = found.get(wanted[0].event_id)
        if first is None:
            return False
        for position, stored in enumerate(wanted, first.position):
            there = found.get(stored.event_id)
            if there is None or (there.ordinal, there.position) != (stored.ordinal, position):
                return False
        landed(RoomCommit(first.position - 1, first.room))
        return True

    def _land(self, room: Room, working: WorkingRoom, commit: RoomCommit) -> Iterable[str]:
        head = working.moving.landed(commit.before, commit.room)
        shown = [e for e in working.appended if not e.stored.flags]
        self._tools.cache.advanced(room, head, shown, working.moving.remote)
        for entry in working.appended:
            if entry.stored.flags and entry.stored.outbound:
                room.unshown = max(room.unshown, entry.stored.position)
        for entry in working.moving.placed:
            self._tools.cache.copies.placed(room, entry)
        for target, pdu, redaction in working.moving.struck:
            self._tools.cache.copies.struck(room, target, pdu, redaction)
        if self._tools.cache.has_rivals:
            room.written_at = monotonic()
        return concerned(head, self._tools.listening.users)

    async def _after_conflict(
        self, planned: list[Pending], most_tries: int = MAX_TRIES, *, base: int | None = None
    ) -> list[Pending]:
        """The head had moved from `base`, or a transaction stood: answer those that stand, try the others again."""
        if base is not None and not self._known_beyond(base):
            await self._tools.committer.heard()
        if base is None or not self._known_beyond(base):
            self._tools.cache.mark_stale(self._room_id)
        room = None if base is None else await self._tools.cache.get(self._room_id)
        # Where it has moved that is why; should a transaction stand as well, the next attempt fails for it alone.
        moved = room is not None and base is not None and room.head.head > base
        standing = {} if moved else await self._standing(planned)
        again: list[Pending] = []
        for pending in planned:
            event_id = None if pending.transaction is None else standing.get(pending.transaction.key)
            pending.tries += 1
            if event_id is not None:
                pending.done.callback(Written(replayed=event_id))
            elif pending.tries >= most_tries:
                pending.done.errback(TimeoutError(f"lost the race for {self._room_id} {pending.tries} times"))
            else:
                again.append(pending)
        return again

    def _known_beyond(self, base: int) -> bool:
        """Whether the room in memory is past the head of that counter."""
        cache = self._tools.cache
        room = cache.peek(self._room_id) or cache.held(self._room_id)  # whoever looks takes what was told
        return room is not None and room.head.head > base

    @staticmethod
    def _resolve(planned: list[Pending], events: Sequence[RoomEvent]) -> None:
        for pending in planned:
            if pending.work is not None:
                pending.done.callback(pending.outcome)
            else:
                pending.done.callback(Written(events[pending.first : pending.last]))
