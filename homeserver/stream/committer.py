# SPDX-License-Identifier: Apache-2.0
"""Group commit: everything of this process that takes stream positions goes through one commit at a time.

While a commit is on its way, whatever arrives gathers for the next one, so a busy server commits larger batches, not
more of them; an idle one commits at once. A room whose head had moved is told so and the others don't notice.

Processes that commit without a pause take turns: while one has the stream's row, another gathers, instead of waiting
for the row with a batch that was made too early. Else each commit would carry a share of what it could.
Owns which batches go together, when, and the order of what follows a commit; making one of many is `batches.py`'s,
building the rows its callers'.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from time import perf_counter
from typing import Any, Generic, TypeVar

from msgspec import Struct
from prometheus_client import Counter, Gauge, Histogram
from twisted.internet.defer import CancelledError, Deferred

from homeserver.needs import Protocol
from homeserver.stream.batches import (
    Landed,
    PendingRoom,
    PendingWrite,
    RoomBatch,
    RoomCommit,
    assemble,
    news_of,
)
from homeserver.stream.changes import Change
from storage.database import ConnectionLost, DatabaseFailure, UnstorableText, is_retryable
from storage.stream import CommitResult, StreamBatch

logger = logging.getLogger(__name__)

_BATCH = Histogram(
    "lares_stream_commit_positions",
    "Positions taken per group commit",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
_MOVED = Counter("lares_stream_head_conflicts", "Room batches refused because the room's head had moved")
_WAITING = Gauge("lares_stream_commit_queue", "Room batches and writes waiting for the commit on its way")

MAX_POSITIONS = 1000
"""Positions in one commit: bounds the time others wait for it."""

MAX_TRIES = 3
"""Attempts at a write whose outcome is unknown because the connection broke, and at what had to give way to others."""

RIVALRY = 0.25
"""Seconds that others are taken to be committing after they have."""
WAY = (0.004, 0.05)
"""Seconds after its own commit that a process leaves the others at least and at most for one of theirs: the time of
two commits, since they begin when they hear of ours."""

PATIENCE = 2.0
"""Seconds until a hole in the stream before a commit of ours is taken to stay. Where it is only that something else
overtook its own news it closes much sooner."""

T = TypeVar("T")


class Apart(Struct, Generic[T], frozen=True):
    """What a commit of its own statement gave: `count` positions after `before`, and the users to wake."""

    value: T
    before: int = 0
    count: int = 0
    wake: Set[str] = frozenset()


class CommitDoor(Protocol):
    def commit(self, batch: StreamBatch) -> Awaitable[CommitResult]: ...


class Resync(Protocol):
    def resync(self) -> Awaitable[None]: ...


class Announcer(Protocol):
    @property
    def position(self) -> int: ...

    def announce(self, change: Change) -> None: ...

    def reached(self, position: int) -> Deferred[None]: ...


class Others(Protocol):
    """Who else commits; `hearing.Hearing` knows."""

    @property
    def has_others(self) -> bool: ...


class DelayedCall(Protocol):
    def cancel(self) -> None: ...


class Committer:
    """One per process."""

    def __init__(
        self,
        store: CommitDoor,
        stream: Announcer,
        recovery: Resync,
        *,
        others: Others | None = None,
        later: Callable[[float, Callable[[], None]], DelayedCall] | None = None,
        now: Callable[[], float] = perf_counter,
    ) -> None:
        """`others` and `later`, the reactor's `callLater`: without, nobody is left a turn, and without `later` no hole
        is closed. `now` is in seconds."""
        self._store = store
        self._others = others
        self._later = later
        self._now = now
        self._end = stream.position
        """Where this process' last commit ended; that was so at `_ended`, in seconds."""
        self._ended = 0.0
        self._took = 0.0
        self._rivals_at: float | None = None
        """When it was last seen that another process had committed; None if it then left its turn unused, too."""
        self._stream = stream
        self._recovery = recovery
        self._rooms: list[PendingRoom] = []
        self._writes: list[PendingWrite] = []
        self._turns: list[Deferred[None]] = []
        self._running = False
        self._began = 0.0
        self._unsure = False
        """Whether a commit's outcome is still unknown because the database did not answer in time."""
        self._watching = False
        """Whether a hole in the stream is given time to close."""
        self._idle: list[Deferred[None]] = []
        _WAITING.set_function(lambda: len(self._rooms) + len(self._writes))

    def commit_room(self, batch: RoomBatch, landed: Landed) -> Deferred[RoomCommit | None]:
        """Commit one room's batch; None if its head had moved or one of its transactions already stands."""
        done: Deferred[RoomCommit | None] = Deferred()
        self._rooms.append(PendingRoom(batch, landed, done))
        self._start()
        return done

    def write(
        self,
        kind: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        users: Sequence[str] = (),
        landed: Callable[[int], Iterable[str]] | None = None,
    ) -> Deferred[int]:
        """Write rows by the SQL function `write_<kind>(rows json, before bigint)`; row n gets position result+n.

        `users` are those whose own data it is. `landed(position before the first)` runs when it stands, before it is
        shown, and returns further users to wake. The rows must be safe to write again.
        """
        done: Deferred[int] = Deferred()
        self._writes.append(PendingWrite(kind, [dict(row) for row in rows], users, landed, done))
        self._start()
        return done

    async def apart(self, commit: Callable[[], Awaitable[Apart[T]]]) -> T:
        """Announce what a statement of its own commits to the stream, beside the group commits.

        For what is long in the making and holds the stream only at its end. `commit` brings memory up to date itself.
        Never done again: raises ConnectionLost when the outcome is unknown.
        """
        try:
            done = await commit()
        except ConnectionLost:
            self._unsure = True
            await self._make_sure()
            raise
        if done.count:
            self._stream.announce(Change(before=done.before, count=done.count, wake=frozenset(done.wake)))
        return done.value

    def wait_idle(self) -> Deferred[None]:
        """Fires when nothing is waiting to be committed, for a clean stop."""
        done: Deferred[None] = Deferred()
        if self._running:
            self._idle.append(done)
        else:
            done.callback(None)
        return done

    def turn(self) -> Deferred[None]:
        """Fires right before the next commit takes what there is: what is planned then is planned on the newest."""
        turn: Deferred[None] = Deferred()
        self._turns.append(turn)
        self._start()
        return turn

    async def heard(self) -> None:
        """Return once what others committed before our last commit is known here: a moment at most, it may be lost."""
        if self._later is None or self._stream.position >= self._end:
            return
        way = self._stream.reached(self._end)
        call = self._later(WAY[1], way.cancel)
        try:
            await way
        except CancelledError:
            return
        call.cancel()

    def _start(self) -> None:
        if not self._running:
            self._running = True
            Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        try:
            while self._rooms or self._writes or self._turns:
                await self._commit_next()
        finally:
            self._running = False
            idle, self._idle = self._idle, []
            for deferred in idle:
                deferred.callback(None)

    def commit_age(self) -> float:
        """Seconds since the commit under way began; 0 if there is none."""
        return self._now() - self._began if self._running else 0.0

    async def _commit_next(self) -> None:
        if self._rivals_at is not None:
            await self._give_way(self._rivals_at)
        self._began = self._now()
        if self._unsure and not await self._make_sure():
            return
        self._fire_turns()
        rooms, writes = self._take()
        if rooms or writes:
            await self._commit(rooms, writes)

    def _fire_turns(self) -> None:
        turns, self._turns = self._turns, []
        for turn in turns:
            turn.callback(None)

    async def _give_way(self, rivals_at: float) -> None:
        """Gather until another process has had a turn since our last, for some milliseconds at most."""
        now = self._now()
        shortest, longest = WAY
        left = self._ended + min(max(2 * self._took, shortest), longest) - now
        if self._later is None or now - rivals_at > RIVALRY or left <= 0 or self._stream.position > self._end:
            return
        self._began = now
        way = self._stream.reached(self._end + 1)
        call = self._later(left, way.cancel)
        try:
            await way
        except CancelledError:
            self._rivals_at = None  # whoever commits now and then is not waited for each time
        else:
            call.cancel()

    def _note_rivals(self, result: CommitResult) -> None:
        self._ended = self._now()
        self._took = self._ended - self._began
        if result.before > self._end:
            self._rivals_at = self._ended

    async def _make_sure(self) -> bool:
        """Bring memory up to date before anything else is committed; if that can't be, all who wait fail."""
        try:
            await self._recovery.resync()
        except Exception as unavailable:
            self._give_up(unavailable)
        else:
            self._unsure = False
        return not self._unsure

    def _give_up(self, unavailable: Exception) -> None:
        """Fail all who wait, so that nobody waits for the database twice; before the next commit it is tried again."""
        self._unsure = True
        self._fire_turns()  # what they plan at once fails as well
        rooms, self._rooms = self._rooms, []
        writes, self._writes = self._writes, []
        _fail(rooms, writes, unavailable)

    async def _commit(
        self, rooms: list[PendingRoom], writes: list[PendingWrite], tries: int = MAX_TRIES
    ) -> Exception | None:
        """Commit those and answer them; returns why the database can't be had, if that is so."""
        try:
            batch, starts = assemble(rooms, writes)
            if rooms and self._others is not None and self._others.has_others:
                batch.news = news_of(rooms, starts)
            result = await self._store.commit(batch)
        except ConnectionLost as error:
            return await self._recover(rooms, writes, error)
        except Exception as error:
            if is_retryable(error) and tries > 1:  # it had to give way to others, and is as it was before
                return await self._commit(rooms, writes, tries - 1)
            return await self._separate(rooms, writes, error)
        _BATCH.observe(batch.count)
        has_others = self._others is not None and self._others.has_others
        if has_others:
            self._note_rivals(result)
        self._end = result.before + batch.count
        self._announce(batch, result, rooms, writes, starts)
        if self._stream.position < self._end and not (has_others or self._watching or self._later is None):
            self._watching = True
            Deferred.fromCoroutine(self._close_hole(self._later))
        return None

    async def _close_hole(self, later: Callable[[float, Callable[[], None]], DelayedCall]) -> None:
        """Have memory brought up to date if something below our last commit is never told of.

        A commit that was given up may land when what became of it was looked up already. Where there are others, it is
        noticed that they wait for more than is known (`hearing.py`); here nobody else would look again.
        """
        try:
            while self._stream.position < self._end and not self._unsure:
                way = self._stream.reached(self._end)
                call = later(PATIENCE, way.cancel)
                try:
                    await way
                except CancelledError:
                    await self._recovery.resync()
                else:
                    call.cancel()
        except Exception:
            self._unsure = True
        finally:
            self._watching = False

    async def _separate(
        self, rooms: list[PendingRoom], writes: list[PendingWrite], error: Exception
    ) -> Exception | None:
        """The database refused the batch: whatever is wrong with one part of it must not fail the others."""
        of_the_database = isinstance(error, DatabaseFailure) and not isinstance(error, UnstorableText)
        if of_the_database or len(rooms) + len(writes) == 1:
            _fail(rooms, writes, error)
            return error if of_the_database else None
        logger.warning("a batch was refused and is committed part by part", exc_info=error)
        while rooms or writes:
            room, rooms = rooms[:1], rooms[1:]
            write, writes = ([], writes) if room else (writes[:1], writes[1:])
            unavailable = await self._commit(room, write)
            if unavailable is not None:  # each of the others would wait for the database anew
                _fail(rooms, writes, unavailable)
                return unavailable
        return None

    async def _recover(
        self, rooms: list[PendingRoom], writes: list[PendingWrite], error: ConnectionLost
    ) -> Exception | None:
        """Nobody knows whether it was committed. Rooms find out by their events; writes may be done again."""
        try:
            await self._recovery.resync()
        except Exception as unavailable:
            _fail(rooms, writes, unavailable)
            self._give_up(unavailable)
            return unavailable
        for write in writes:
            write.tries += 1
        again = [write for write in writes if write.tries < MAX_TRIES]
        self._writes[:0] = again
        _fail(rooms, [write for write in writes if write.tries >= MAX_TRIES], error)
        return None

    def _take(self) -> tuple[list[PendingRoom], list[PendingWrite]]:
        budget = MAX_POSITIONS
        rooms: list[PendingRoom] = []
        while self._rooms and (not rooms or budget >= self._rooms[0].batch.positions):
            budget -= self._rooms[0].batch.positions
            rooms.append(self._rooms.pop(0))
        writes: list[PendingWrite] = []
        while self._writes and (not writes or budget >= len(self._writes[0].rows)):
            budget -= len(self._writes[0].rows)
            writes.append(self._writes.pop(0))
        return rooms, writes

    def _announce(
        self,
        batch: StreamBatch,
        result: CommitResult,
        rooms: list[PendingRoom],
        writes: list[PendingWrite],
        starts: list[int],
    ) -> None:
        wake: set[str] = set()
        certain = True
        commits: list[RoomCommit | None] = []
        for number, pending in enumerate(rooms):
            key = result.written.get(number)
            if key is None:
                _MOVED.inc()
                commits.append(None)
                continue
            commit = RoomCommit(result.before + starts[number], key)
            certain &= _told(pending.landed, commit, wake)
            commits.append(commit)
        for start, write in zip(starts[len(rooms) :], writes, strict=True):
            if write.landed is not None:
                certain &= _told(write.landed, result.before + start, wake)
        self._stream.announce(
            Change(
                before=result.before,
                count=batch.count,
                rooms=list(result.written.values()),
                users=batch.users,
                wake=frozenset(wake),
                unknown=not certain,
            )
        )
        for pending, room_commit in zip(rooms, commits, strict=True):
            pending.done.callback(room_commit)
        for start, write in zip(starts[len(rooms) :], writes, strict=True):
            write.done.callback(result.before + start)


def _told(landed: Callable[[T], Iterable[str]], where: T, wake: set[str]) -> bool:
    """Say where something landed; False if that failed, which must not keep the others from hearing of theirs."""
    try:
        wake.update(landed(where))
    except Exception:
        logger.exception("memory did not take up a commit; it is brought up to date from the database")
        return False
    return True


def _fail(rooms: list[PendingRoom], writes: list[PendingWrite], error: Exception) -> None:
    for room in rooms:
        room.done.errback(error)
    for write in writes:
        write.done.errback(error)
