# SPDX-License-Identifier: Apache-2.0
"""Whether a process knows what its siblings have told: over real shared memory, with notifications by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from homeserver.siblings import Siblings, shared_page
from homeserver.stream import Change, Stream
from homeserver.stream.hearing import CHANNEL, LONGEST, Hearing
from homeserver.stream.telling import Telling
from storage.server_processes import Told


class Process:
    """One of two processes, without a database: what it notifies of is in `sent`."""

    def __init__(self, page: int, number: int) -> None:
        self.siblings = Siblings.from_descriptor(page, number, 2)
        self.stream = Stream(origin=f"process {number}", position=10, siblings=self.siblings)
        self.clock = Clock()
        self.read = 0
        self.readings: list[Deferred[None]] | None = None
        """Those that take time; None: none does."""
        self.hearing = Hearing(
            reactor=self.clock,
            stream=self.stream,
            siblings=self.siblings,
            read_up=self.read_up,
            look=self.look,
            hear=self.hear,
        )
        self.arrived: list[Change] = []
        """What lies in the socket."""
        self.looks: list[Deferred[Told]] = []
        self.sent: list[str] = []
        self.telling = Telling(
            self,
            self.siblings,
            origin=f"process {number}".replace(" ", "-"),
            others=self.hearing,
            elsewhere=self,
        )

    def hear(self) -> None:
        while self.arrived:
            self.stream.announce(self.arrived.pop(0))

    async def notify_each(self, notifications: Sequence[tuple[str, str]]) -> None:
        self.sent += [payload for channel, payload in notifications if channel == CHANNEL]

    async def tell(self, serial: int, notifications: Sequence[tuple[str, str]]) -> None:
        await self.notify_each(notifications)

    def look(self) -> Deferred[Told]:
        self.looks.append(Deferred())
        return self.looks[-1]

    async def read_up(self) -> None:
        self.read += 1
        found = max(self.siblings.shown)
        if self.readings is not None:
            self.readings.append(Deferred())
            await self.readings[-1]
        self.stream.missed(found)


@pytest.fixture
def processes() -> Iterator[tuple[Process, Process]]:
    page = shared_page()
    try:
        yield Process(page, 0), Process(page, 1)
    finally:
        os.close(page)


def test_what_one_committed_another_waits_for(processes: tuple[Process, Process]) -> None:
    """Its position is seen at once, and the wait ends with the notification."""
    first, second = processes
    assert not second.hearing.behind()
    first.stream.announce(Change(before=10, count=2, rooms=[7]))
    assert not first.hearing.behind()
    assert second.hearing.behind()
    waits = [Deferred.fromCoroutine(second.hearing.catch_up()) for _ in range(2)]
    assert not waits[0].called
    second.stream.announce(Change(before=10, count=2, rooms=[7], foreign=True))
    assert [wait.called for wait in waits] == [True, True]
    assert not second.hearing.behind()
    assert not second.read


def test_what_has_arrived_already_is_not_waited_for(processes: tuple[Process, Process]) -> None:
    """Unless a commit is being taken in: whoever asks in the midst of that must not have it mixed with another."""
    first, second = processes
    asked: list[bool] = []

    class Asking:
        def changed(self, change: Change) -> tuple[str, ...]:
            asked.append(second.hearing.behind())
            return ()

    first.stream.announce(Change(before=11, count=1))
    second.arrived.append(Change(before=11, count=1, foreign=True))
    second.stream.subscribe(Asking())
    second.stream.announce(Change(before=10, count=1))
    assert asked == [True]
    assert second.arrived
    assert not second.hearing.behind()
    assert second.stream.position == 12


def test_a_process_waits_for_what_lies_below_its_own_commit(processes: tuple[Process, Process]) -> None:
    """Its client was told of position 13; until 11 and 12 are known, nothing at 13 can be shown."""
    first, _second = processes
    first.stream.announce(Change(before=12, count=1, rooms=[7]))
    assert first.hearing.behind()
    first.stream.announce(Change(before=10, count=2, rooms=[8], foreign=True))
    assert not first.hearing.behind()


def test_what_is_not_on_the_stream_is_waited_for_by_its_serial(processes: tuple[Process, Process]) -> None:
    """Telling is seen at once; the serial that arrives after the news ends the wait."""
    first, second = processes
    told = Deferred.fromCoroutine(first.telling.told())
    assert told.called
    assert second.hearing.behind()
    ended: list[None] = []
    Deferred.fromCoroutine(second.hearing.catch_up()).addCallback(ended.append)
    assert not ended
    for payload in first.sent:
        second.hearing.heard(payload)
    assert ended == [None]
    assert not second.hearing.behind()


def test_what_never_arrives_is_read_from_the_database_once(processes: tuple[Process, Process]) -> None:
    """All who wait too long share one reading."""
    first, second = processes
    first.stream.announce(Change(before=10, count=1))
    Deferred.fromCoroutine(first.telling.told())
    waits = [Deferred.fromCoroutine(second.hearing.catch_up()) for _ in range(3)]
    second.clock.advance(LONGEST + 0.1)
    assert all(wait.called for wait in waits)
    assert second.read == 1
    assert not second.hearing.behind()


def test_what_was_told_since_a_reading_began_takes_another(processes: tuple[Process, Process]) -> None:
    """Whoever waits for it is not answered by what was read before."""
    first, second = processes
    second.readings = []
    waits = []
    for position in (10, 11):
        first.stream.announce(Change(before=position, count=1))
        waits.append(Deferred.fromCoroutine(second.hearing.catch_up()))
        second.clock.advance(LONGEST + 0.1)
    second.readings[0].callback(None)
    assert [wait.called for wait in waits] == [True, False]
    second.readings[1].callback(None)
    assert waits[1].called
    assert second.stream.position == 12


def test_where_nothing_can_be_read_nobody_is_answered(processes: tuple[Process, Process]) -> None:
    """Neither who began the reading, nor who waited for it."""
    first, second = processes
    second.readings = []
    first.stream.announce(Change(before=10, count=1))
    failed: list[Failure] = []
    for _ in range(2):
        Deferred.fromCoroutine(second.hearing.catch_up()).addErrback(failed.append)
    second.clock.advance(LONGEST + 0.1)
    for reading in second.readings:
        reading.errback(OSError())
    assert len(failed) == 2


def test_a_request_that_ends_does_not_end_the_wait_of_others(processes: tuple[Process, Process]) -> None:
    """Each waits by itself."""
    first, second = processes
    first.stream.announce(Change(before=10, count=1))
    gone, stays = (Deferred.fromCoroutine(second.hearing.catch_up()) for _ in range(2))
    gone.addErrback(lambda _failure: None)
    gone.cancel()
    assert not stays.called
    second.stream.announce(Change(before=10, count=1, foreign=True))
    assert stays.called


def test_a_process_that_starts_again_goes_on_with_its_serials() -> None:
    """Others don't take its new news for old."""
    page = shared_page()
    first, second = Process(page, 0), Process(page, 1)
    Deferred.fromCoroutine(first.telling.told())
    second.hearing.heard(first.sent[-1])
    again = Process(page, 0)
    Deferred.fromCoroutine(again.telling.told())
    assert second.hearing.behind()
    second.hearing.heard(again.sent[-1])
    assert not second.hearing.behind()
    # Whoever starts after that has nothing in memory that is older.
    late = Process(page, 1)
    late.hearing.listening()
    assert not late.hearing.behind()
    os.close(page)


def test_a_process_that_starts_again_uses_no_serial_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ended before it wrote down how far it told may have been heard nevertheless."""
    page = shared_page()
    first, second = Process(page, 0), Process(page, 1)
    Deferred.fromCoroutine(first.telling.told())

    async def sent_and_ended(notifications: Sequence[tuple[str, str]]) -> None:
        first.sent += [payload for channel, payload in notifications if channel == CHANNEL]
        await Deferred()

    monkeypatch.setattr(first, "notify_each", sent_and_ended)
    ended = Deferred.fromCoroutine(first.telling.told())
    second.hearing.heard(first.sent[-1])
    again = Process(page, 0)
    Deferred.fromCoroutine(again.telling.told())
    assert second.hearing.behind()
    ended.addErrback(lambda _failure: None)
    ended.cancel()
    os.close(page)


def test_of_other_machines_one_look_serves_all_who_wait_for_it(processes: tuple[Process, Process]) -> None:
    """Who comes while it is under way may have been told something since: those share the next."""
    here, _sibling = processes
    here.hearing.found_elsewhere(True)
    assert here.hearing.behind()
    first = Deferred.fromCoroutine(here.hearing.catch_up())
    later = [Deferred.fromCoroutine(here.hearing.catch_up()) for _ in range(5)]
    assert len(here.looks) == 1
    here.looks[0].callback(Told(10, {}))
    assert first.called
    assert [each.called for each in later] == [False] * 5
    assert len(here.looks) == 2
    here.looks[1].callback(Told(12, {"far": 3}))
    here.hearing.heard("the-others 0 far 3")
    assert not any(each.called for each in later)
    here.stream.announce(Change(before=10, count=2, foreign=True))
    assert all(each.called for each in later)
    here.hearing.found_elsewhere(False)
    assert not here.hearing.behind()
