# SPDX-License-Identifier: Apache-2.0
"""What several processes say of one server at once, and what one of them did not hear."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from federation.destinations import WRITE_PAUSE, Availability
from storage.database import Database, DatabaseUnavailable
from storage.destinations import Standing
from tests.federation.outbound.outbound_fixture import Process

A = "a.test"
NOW = 1_700_000_000_000
DAY = 86_400_000


class _Store:
    """Notes what is written; a writing is answered when the test says so."""

    def __init__(self) -> None:
        self.written: list[tuple[list[Standing], Deferred[None]]] = []
        self.kept: list[Standing] = []
        self.reading: Deferred[None] = succeed(None)

    async def in_trouble(self, _limit: int) -> list[Standing]:
        kept = [*self.kept]
        await self.reading
        return kept

    async def put_standings(self, standings: Sequence[Standing]) -> None:
        answer = Deferred[None]()
        self.written.append(([*standings], answer))
        await answer

    async def forget_old(self, _now: int) -> int:
        return 0


def build() -> tuple[Clock, _Store, Availability]:
    clock, store = Clock(), _Store()
    return (
        clock,
        store,
        Availability(origin="here", store=store, scheduler=clock, now=lambda: NOW, random=lambda: 0.0),
    )


def told(failures: int, retry_at: int, origin: str = "there") -> str:
    """As another process tells of A."""
    since = NOW if failures else None
    return orjson.dumps({"origin": origin, "standings": [[A, failures, since, retry_at, 0, 0]]}).decode()


def failing(name: str, *, retry_at: int = NOW + DAY) -> Standing:
    """As it is kept."""
    return Standing(name, failures=20, failing_since=NOW, retry_at=retry_at)


async def test_a_server_that_was_reached_here_is_not_given_up_for_another_process() -> None:
    """What that one says was found out before it could hear of it; it soon does."""
    clock, store, availability = build()
    availability.delivered(A)
    availability.heard(told(20, NOW + DAY))
    assert availability.is_well(A)
    clock.advance(WRITE_PAUSE)
    ((written, _),) = store.written
    assert written == [Standing(A, last_success=NOW)]


async def test_a_server_that_another_process_reached_is_not_given_up_here() -> None:
    clock, store, availability = build()
    tried: list[str] = []
    availability.watch(tried.append)
    availability.failed(A)
    availability.heard(told(0, 0))
    assert (availability.is_well(A), tried) == (True, [A])
    clock.advance(WRITE_PAUSE)
    assert [each for portion, _ in store.written for each in portion] == []


@pytest.mark.parametrize("ours_fails", [True, False])
async def test_what_could_not_be_written_gives_way_to_what_was_heard_since(ours_fails: bool) -> None:
    """If the server is tried sooner by that. Without such news it is written again."""
    clock, store, availability = build()
    if ours_fails:
        availability.failed(A)
    else:
        availability.delivered(A)
    clock.advance(WRITE_PAUSE)
    store.written.pop()[1].errback(DatabaseUnavailable("for a moment"))
    clock.advance(WRITE_PAUSE)
    (again,), answer = store.written.pop()
    assert again.is_well is not ours_fails
    availability.heard(told(0, 0) if ours_fails else told(5, NOW + DAY))
    answer.errback(DatabaseUnavailable("for a moment"))
    clock.advance(WRITE_PAUSE)
    (again,), _ = store.written.pop()
    assert again.is_well
    assert availability.is_well(A)


async def test_what_was_written_before_ours_and_heard_after_it_does_not_count() -> None:
    """The other processes hear ours last, and so does the database."""
    clock, store, availability = build()
    availability.delivered(A)
    clock.advance(WRITE_PAUSE)
    store.written.pop()[1].callback(None)
    availability.heard(told(20, NOW + DAY))
    assert availability.is_well(A)
    availability.heard(told(0, 0, "here"))
    clock.advance(WRITE_PAUSE)
    assert not store.written
    availability.heard(told(20, NOW + DAY))
    assert not availability.is_well(A)


async def test_what_ours_wrote_over_is_written_again_if_it_has_the_server_tried_sooner() -> None:
    clock, store, availability = build()
    tried: list[str] = []
    availability.watch(tried.append)
    availability.failed(A)
    clock.advance(WRITE_PAUSE)
    _, answer = store.written.pop()
    availability.heard(told(0, 0))
    assert (availability.is_well(A), tried) == (True, [A])
    answer.callback(None)
    clock.advance(WRITE_PAUSE)
    (again,), _ = store.written.pop()
    assert again.is_well


async def test_what_was_told_while_nobody_listened_is_read() -> None:
    """Who is back is tried, who went away is not."""
    clock, store, availability = build()
    store.kept = [failing("back"), failing("sooner"), failing("away"), failing("same")]
    await availability.start()
    tried: list[str] = []
    availability.watch(tried.append)
    store.kept = [failing("sooner", retry_at=NOW), failing("away"), failing("same"), failing("new")]
    availability.interrupted()
    clock.advance(WRITE_PAUSE)
    assert sorted(tried) == ["back", "sooner"]
    names = ("back", "sooner", "away", "same", "new")
    assert [name for name in names if availability.may_try(name)] == ["back", "sooner"]
    clock.advance(WRITE_PAUSE)
    assert not store.written


async def test_what_is_learnt_while_the_database_is_read_is_newer() -> None:
    clock, store, availability = build()
    store.kept = [failing(A), failing("b.test")]
    await availability.start()
    store.kept.append(failing("d.test"))
    reading = store.reading = Deferred()
    availability.failed("c.test")
    availability.interrupted()
    clock.advance(WRITE_PAUSE)
    availability.heard(told(0, 0))
    availability.succeeded("b.test")
    reading.callback(None)
    names = (A, "b.test", "c.test", "d.test")
    assert [name for name in names if availability.is_well(name)] == [A, "b.test"]
    ((written, _),) = store.written
    assert {each.server_name for each in written} == {"b.test", "c.test"}


async def test_a_reading_that_failed_is_repeated() -> None:
    clock, store, availability = build()
    store.kept = [failing(A)]
    await availability.start()
    store.kept.clear()
    store.reading = fail(DatabaseUnavailable("for a moment"))
    availability.interrupted()
    clock.advance(WRITE_PAUSE)
    assert not availability.is_well(A)
    store.reading = succeed(None)
    clock.advance(WRITE_PAUSE)
    assert availability.is_well(A)


async def test_a_server_that_came_back_unheard_gets_what_it_is_owed(database: Database) -> None:
    """The connection that listens was lost meanwhile."""
    process = await Process.open(database)
    room = await process.room_with(A)
    process.others.away.add(A)
    await process.say(room, "owed")
    await process.settle()
    await process.outbound.availability._write()
    process.others.away.clear()
    await database.execute("unheard", "UPDATE destinations SET failures = 0, retry_at = 0")
    database.interrupted()
    await process.pass_time(WRITE_PAUSE)
    await process.until(lambda: process.others.bodies(A) == ["owed"])
    await process.stop()
