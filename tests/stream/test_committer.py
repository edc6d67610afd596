# SPDX-License-Identifier: Apache-2.0
"""Group commit without a database: what shares a commit, what fails alone, what is done again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg2.errors
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from homeserver.stream import Apart, Change, Committer, Recovery, RoomBatch, RoomCommit, Stream
from homeserver.stream.committer import MAX_TRIES, PATIENCE, WAY
from homeserver.stream.waiting import Waiting
from storage.database import ConnectionLost, DatabaseClosed, DatabaseOverloaded, DatabaseUnavailable
from storage.stream import CommitResult, StreamBatch


class Door:
    """A database whose commits are answered by the test, oldest first."""

    def __init__(self) -> None:
        self.batches: list[StreamBatch] = []
        self._answers: list[Deferred[CommitResult]] = []
        self.position = 0

    def commit(self, batch: StreamBatch) -> Deferred[CommitResult]:
        self.batches.append(batch)
        answer: Deferred[CommitResult] = Deferred()
        self._answers.append(answer)
        return answer

    def accept(self, *, refused_rooms: Sequence[int] = ()) -> None:
        """The oldest commit stands, but for rooms whose head had moved."""
        batch = self.batches[-1]
        before, self.position = self.position, self.position + batch.count
        written = {row["r"]: 100 + row["r"] for row in batch.rooms if row["r"] not in refused_rooms}
        self._answers.pop(0).callback(CommitResult(before, written))

    def refuse(self, error: Exception) -> None:
        self._answers.pop(0).errback(error)


class Announcements:
    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.position = 0
        self.waiting = Waiting()

    def announce(self, change: Change) -> None:
        self.changes.append(change)
        self.position = change.position
        self.waiting.reached(self.position)

    def reached(self, position: int) -> Deferred[None]:
        return self.waiting.until(position)


class Resync:
    def __init__(self) -> None:
        self.times = 0
        self.failing = False
        self.under_way: Deferred[None] | None = None
        """What the next one waits for."""

    async def resync(self) -> None:
        self.times += 1
        under_way, self.under_way = self.under_way, None
        if under_way is not None:
            await under_way
        if self.failing:
            raise DatabaseUnavailable("still gone")


class Others:
    has_others = True


class House:
    def __init__(self) -> None:
        self.door, self.announcements, self.resync = Door(), Announcements(), Resync()
        self.clock, self.others = Clock(), Others()
        self.committer = Committer(
            self.door,
            self.announcements,
            self.resync,
            others=self.others,
            later=self.clock.callLater,
            now=self.clock.seconds,
        )

    def foreign(self) -> None:
        """Another process commits one position, and this one hears of it."""
        self.door.position += 1
        self.announcements.announce(Change(before=self.door.position - 1, count=1, foreign=True))

    def room(self, events: int = 1) -> Deferred[RoomCommit | None]:
        batch = RoomBatch(room={}, events=[{} for _ in range(events)])
        return self.committer.commit_room(batch, lambda _commit: ["@woken:localhost"])

    def write(self, kind: str = "receipts", count: int = 1) -> Deferred[int]:
        return self.committer.write(kind, [{} for _ in range(count)], users=("@u:localhost",))


def result_of(deferred: Deferred[Any]) -> Any:
    found: list[Any] = []
    deferred.addBoth(found.append)
    assert found, "not answered yet"
    return found[0]


def test_what_arrives_during_a_commit_shares_the_next() -> None:
    """One commit at a time; the second takes everything that gathered, in positions without a hole."""
    house = House()
    first = house.room()
    others: list[Deferred[Any]] = [house.room(2), house.room(), house.write(count=3)]
    assert len(house.door.batches) == 1
    house.door.accept()
    assert result_of(first) == RoomCommit(0, 100)
    assert len(house.door.batches) == 2
    assert house.door.batches[1].count == 6
    house.door.accept()
    assert [result_of(other) for other in others] == [RoomCommit(1, 100), RoomCommit(3, 101), 4]
    assert [(change.before, change.count) for change in house.announcements.changes] == [(0, 1), (1, 6)]
    assert house.announcements.changes[1].wake == {"@woken:localhost"}


def test_a_room_that_lost_the_race_is_told_alone() -> None:
    """The others of the batch don't notice."""
    house = House()
    house.room()
    loser, winner = house.room(), house.room()
    house.door.accept()
    house.door.accept(refused_rooms=[0])
    assert result_of(loser) is None
    assert result_of(winner) == RoomCommit(2, 101)


def test_a_batch_the_database_refuses_is_committed_part_by_part() -> None:
    """What is wrong with one part is that part's own failure."""
    house = House()
    house.room()
    good, bad, write = house.room(), house.room(), house.write()
    house.door.accept()
    house.door.refuse(ValueError("bad data somewhere"))
    house.door.accept()
    house.door.refuse(ValueError("bad data here"))
    house.door.accept()
    assert result_of(good) == RoomCommit(1, 100)
    with pytest.raises(ValueError, match="here"):
        result_of(bad).raiseException()
    assert result_of(write) == 2


class GaveWay(psycopg2.errors.DeadlockDetected):
    """As Postgres has it for one of those who wait for each other."""

    pgcode = "40P01"


def test_a_commit_that_had_to_give_way_is_made_again() -> None:
    """In the same positions, and not for ever."""
    house = House()
    room, write = house.room(2), house.write()
    house.door.refuse(GaveWay())
    house.door.accept()
    assert result_of(room) == RoomCommit(0, 100)
    for _ in range(MAX_TRIES):
        house.door.refuse(GaveWay())
    with pytest.raises(GaveWay):
        result_of(write).raiseException()


async def test_a_commit_of_its_own_statement_is_told_of() -> None:
    """One that took no position is not, and what became of a lost one is looked at before anything else."""
    house = House()

    async def done(apart: Apart[str] | Exception) -> Apart[str]:
        if isinstance(apart, Exception):
            raise apart
        return apart

    assert await house.committer.apart(lambda: done(Apart("nothing"))) == "nothing"
    assert house.announcements.changes == []
    assert await house.committer.apart(lambda: done(Apart("one", 7, 1, {"@w:localhost"}))) == "one"
    assert house.announcements.changes == [Change(before=7, count=1, wake=frozenset(("@w:localhost",)))]
    house.resync.failing = True
    with pytest.raises(ConnectionLost):
        await house.committer.apart(lambda: done(ConnectionLost("who knows")))
    house.resync.failing = False
    write = house.write()
    house.door.accept()
    assert result_of(write) == 0
    assert house.resync.times == 2


def test_a_part_that_cannot_be_assembled_fails_alone() -> None:
    """Nothing reached the database; the others are committed, and what comes later."""
    house = House()
    house.room()
    bad = house.committer.commit_room(RoomBatch(room={}, events=[{}], redactions=[{"i": None}]), lambda _: [])
    good = house.room()
    house.door.accept()
    with pytest.raises(TypeError):
        result_of(bad).raiseException()
    house.door.accept()
    assert result_of(good) == RoomCommit(1, 100)
    later = house.room()
    house.door.accept()
    assert result_of(later) == RoomCommit(2, 100)


def test_an_overloaded_database_is_not_asked_again_for_each_part() -> None:
    """The failure is the database's: everybody hears of it at once."""
    house = House()
    house.room()
    pending: list[Deferred[Any]] = [house.room(), house.write()]
    house.door.accept()
    house.door.refuse(DatabaseOverloaded("full"))
    for deferred in pending:
        with pytest.raises(DatabaseOverloaded):
            result_of(deferred).raiseException()
    assert len(house.door.batches) == 2


@pytest.mark.parametrize("error", [DatabaseUnavailable("gone"), ConnectionLost("gone")])
def test_a_database_that_goes_away_part_by_part_is_not_waited_for_by_each(error: Exception) -> None:
    """What stood already stands; the parts that are left are told with the first."""
    house = House()
    house.resync.failing = True
    house.room()
    first = house.room()
    left: list[Deferred[Any]] = [house.room(), house.room(), house.write(), house.write()]
    house.door.accept()
    house.door.refuse(ValueError("bad data somewhere"))
    house.door.accept()
    house.door.refuse(error)
    assert result_of(first) == RoomCommit(1, 100)
    for deferred in left:
        with pytest.raises(DatabaseUnavailable):
            result_of(deferred).raiseException()
    assert len(house.door.batches) == 4


def test_a_lost_connection_is_found_out_about() -> None:
    """Writes are done again, rooms are told that nobody knows; both after memory was brought up to date."""
    house = House()
    house.room()
    room, write = house.room(), house.write()
    house.door.accept()
    house.door.refuse(ConnectionLost("gone"))
    assert house.resync.times == 1
    with pytest.raises(ConnectionLost):
        result_of(room).raiseException()
    house.door.accept()
    assert result_of(write) == 1


def test_a_huge_queue_is_split_into_bounded_commits() -> None:
    """A commit takes a thousand positions at most, unless a single part is larger."""
    house = House()
    house.room()
    pending = [house.room(400) for _ in range(5)]
    house.door.accept()
    counts: list[int] = []
    while len(house.door.batches) > len(counts) + 1:
        counts.append(house.door.batches[-1].count)
        house.door.accept()
    assert counts == [800, 800, 400]
    assert all(result_of(each) is not None for each in pending)


def test_wait_idle_fires_when_nothing_is_left() -> None:
    """For a clean stop."""
    house = House()
    house.room()
    house.room()
    idle = house.committer.wait_idle()
    house.door.accept()
    assert not idle.called
    house.door.accept()
    assert idle.called


def test_memory_that_fails_to_take_up_a_commit_holds_up_nobody() -> None:
    """The commit stands: everybody is answered, the position moves, and memory is brought up to date as a whole."""
    house = House()

    def fail(_where: object) -> list[str]:
        raise KeyError("a bug")

    house.room()
    room = house.committer.commit_room(RoomBatch(room={}, events=[{}]), fail)
    other = house.room()
    write = house.committer.write("receipts", [{}], landed=fail)
    house.door.accept()
    house.door.accept()
    assert [result_of(each) for each in (room, other, write)] == [RoomCommit(1, 100), RoomCommit(2, 101), 3]
    first, second = house.announcements.changes
    assert not first.unknown
    assert second.unknown
    assert second.wake == {"@woken:localhost"}


def test_an_outcome_that_stays_unknown_is_found_out_before_the_next_commit() -> None:
    """A hole in the stream that nobody looks into again would hide everything after it for ever."""
    house = House()
    house.resync.failing = True
    lost = house.room()
    house.door.refuse(ConnectionLost("gone"))
    still = house.room()
    for deferred in (lost, still):
        with pytest.raises(DatabaseUnavailable):
            result_of(deferred).raiseException()
    assert len(house.door.batches) == 1
    house.resync.failing = False
    room = house.room()
    house.room()
    house.door.accept()
    house.door.accept()
    assert result_of(room) == RoomCommit(0, 100)
    assert house.resync.times == 3


def test_nobody_waits_twice_for_a_database_that_is_away() -> None:
    """Whoever comes while a lost commit's outcome is looked up is told with those of that commit; so are those who come
    while it is looked up again, and what is planned in a turn that was waited for."""
    house = House()
    house.resync.failing = True

    async def planned_in_turn() -> None:
        await house.committer.turn()
        await house.room()

    lost: list[Deferred[Any]] = [house.room()]
    for times in (1, 2):
        gone = house.resync.under_way = Deferred()
        if lost:
            house.door.refuse(ConnectionLost("gone"))
        planned = Deferred.fromCoroutine(planned_in_turn())
        waiting: list[Deferred[Any]] = [*lost, house.room(), house.write(), planned]
        gone.callback(None)
        for deferred in waiting:
            with pytest.raises(DatabaseUnavailable):
                result_of(deferred).raiseException()
        assert house.resync.times == times
        lost = []
    assert len(house.door.batches) == 1


def test_processes_that_commit_without_a_pause_take_turns() -> None:
    """What comes while the other has its turn shares one commit."""
    house = House()
    house.room()
    house.foreign()  # was first
    house.door.accept()
    house.room()
    house.room()
    assert len(house.door.batches) == 1
    house.room()
    house.foreign()
    assert [batch.count for batch in house.door.batches] == [1, 3]
    house.door.accept()
    assert not house.clock.getDelayedCalls()


def test_a_turn_that_is_left_unused_is_not_left_again() -> None:
    """Whoever commits now and then costs the others one wait, which ends."""
    house = House()
    house.room()
    house.foreign()
    house.door.accept()
    house.room()
    house.clock.advance(WAY[0])
    assert len(house.door.batches) == 2
    house.door.accept()
    house.room()
    assert len(house.door.batches) == 3
    assert not house.clock.getDelayedCalls()


def test_nobody_is_waited_for_where_nobody_is() -> None:
    """Also where something else than a group commit of this process took positions."""
    house = House()
    house.others.has_others = False
    for count in (1, 2, 3):
        house.room()
        house.foreign()
        house.door.accept()
        assert len(house.door.batches) == count
    assert not house.clock.getDelayedCalls()


class Alone:
    """A process without others, on a stream that may have holes."""

    def __init__(self) -> None:
        self.door, self.clock = Door(), Clock()
        self.stream, self.looks = Stream(origin="alone", position=0), 0
        recovery = Recovery(self, self.stream, lambda _: Deferred())
        self.committer = Committer(self.door, self.stream, recovery, later=self.clock.callLater)

    async def settled_position(self) -> int:
        self.looks += 1
        return self.door.position


def test_a_commit_that_lands_after_it_was_given_up_hides_nothing() -> None:
    """Its outcome was looked up before; nobody will tell of it, and what comes later is shown all the same."""
    alone = Alone()
    lost = alone.committer.write("receipts", [{}] * 3)
    for _ in range(MAX_TRIES):
        alone.door.refuse(ConnectionLost("gone"))
    with pytest.raises(ConnectionLost):
        result_of(lost).raiseException()
    alone.door.position += 3
    for position in (3, 4):
        write = alone.committer.write("receipts", [{}])
        alone.door.accept()
        assert result_of(write) == position
    assert alone.stream.position == 0
    alone.clock.advance(PATIENCE)
    assert alone.stream.position == 5
    assert not alone.clock.getDelayedCalls()


def test_what_a_commit_overtook_is_given_time() -> None:
    """Statements of their own commit beside it, and are told of a moment later."""
    alone = Alone()
    alone.door.position += 1
    alone.committer.write("receipts", [{}])
    alone.door.accept()
    assert alone.stream.position == 0
    alone.clock.advance(PATIENCE / 2)
    alone.stream.announce(Change(before=0, count=1))
    assert alone.stream.position == 2
    assert not alone.clock.getDelayedCalls()
    assert not alone.looks


async def test_a_hole_that_cannot_be_looked_into_is_looked_into_before_the_next_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As any whose outcome is unknown."""
    alone = Alone()
    alone.door.position += 1
    alone.committer.write("receipts", [{}])
    alone.door.accept()

    async def closed() -> int:
        raise DatabaseClosed("gone")

    with monkeypatch.context() as patch:
        patch.setattr(alone, "settled_position", closed)
        alone.clock.advance(PATIENCE)
    assert alone.stream.position == 0
    assert not alone.clock.getDelayedCalls()
    alone.committer.write("receipts", [{}])
    assert alone.stream.position == 2
    alone.door.accept()
    assert alone.stream.position == 3
