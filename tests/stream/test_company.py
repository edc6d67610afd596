# SPDX-License-Identifier: Apache-2.0
"""Who else is there: a process serves only once the others know, over a real database."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from homeserver.stream import company
from homeserver.stream.company import LEASE, RENEW, OtherCompanies
from storage.database import Database
from storage.notifications import NotificationStore
from storage.server_processes import CHANNEL, ServerProcess, ServerProcessStore
from storage.stream import StreamBatch, StreamStore
from tests.reactor import reactor

LONG = 600.0
"""Seconds of a lease that does not run out meanwhile."""


class Member:
    """A process as far as the others are concerned."""

    def __init__(
        self, database: Database, clock: Any = reactor, kind: type[ServerProcessStore] = ServerProcessStore
    ) -> None:
        self.origin = secrets.token_hex(4)
        self.store = kind(database, origin=self.origin, company=self.origin)
        self.found: list[bool] = []
        self.learnt: dict[str, int] = {}
        self.forgotten: list[bool] = []
        self.companies = OtherCompanies(
            reactor=clock,
            store=self.store,
            notify=NotificationStore(database).notify_all,
            origin=self.origin,
            company=self.origin,
            found=self.found.append,
            learn=self.learnt.__setitem__,
            forgotten=lambda: self.forgotten.append(True),
        )


async def test_who_comes_is_known_before_it_serves(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And forgotten when it leaves."""
    monkeypatch.setattr(company, "LEASE", LONG)  # on this clock a machine that stops would take them for gone
    first, second = Member(database), Member(database)
    await database.listen(CHANNEL, first.companies.heard)
    await first.companies.start()
    assert first.found == [False]
    await first.store.tell(7, [("told", "7")])
    await database.listen(CHANNEL, second.companies.heard)
    await second.companies.start()
    assert first.found[-1]
    assert second.found
    assert all(second.found)
    assert second.learnt == {first.origin: 7}
    told = await second.store.look()
    assert told.serials == {first.origin: 7}
    await second.companies.stop()
    assert await first.store.renew(None, 0, LEASE) == (False, [])
    await first.companies.stop()


class SlowStore(ServerProcessStore):
    """What it finds arrives late."""

    meanwhile: Callable[[], None]

    async def renew(
        self, host: str | None, pid: int, seconds: float, *, retry: bool = False
    ) -> tuple[bool, list[ServerProcess]]:
        found = await super().renew(host, pid, seconds, retry=retry)
        self.meanwhile()
        return found


async def test_who_comes_while_one_looks_who_is_there_is_not_forgotten(database: Database) -> None:
    """The look did not find them, their greeting was heard before its answer."""
    member = Member(database, kind=SlowStore)
    assert isinstance(member.store, SlowStore)
    member.store.meanwhile = lambda: member.companies.heard("hello other elsewhere")
    await member.companies.start()
    assert member.found == [True, True]
    await member.companies.stop()


async def test_who_does_not_answer_is_waited_for_as_long_as_its_lease(database: Database) -> None:
    """Unless it is known to have ended: a server that was killed does not hold up the next start."""
    clock = Clock()
    silent = ServerProcessStore(database, origin="silent", company="silent")
    await silent.renew("another machine", 1, LONG)
    member = Member(database, clock)
    started = Deferred.fromCoroutine(member.companies.start())
    while not member.companies._unseen or not clock.getDelayedCalls():
        await database.fetch_one("test", "SELECT 1")
    assert not started.called
    clock.advance(LEASE)
    await started
    await silent.leave()
    killed = ServerProcessStore(database, origin="killed", company="killed")
    await killed.renew(member.companies._host, 2**22 + 1, LEASE)
    other = Member(database, clock)
    other.companies._is_dead(ServerProcess("", member.companies._host, os.getpid(), 0))
    await member.companies.stop()
    await other.companies.start()
    assert other.found == [False]
    await other.companies.stop()


async def test_who_cannot_say_that_it_lives_takes_it_that_there_are_others(database: Database) -> None:
    """It may have been given up, and somebody may have come."""
    clock = Clock()
    member = Member(database, clock)
    await member.companies.start()

    await database.execute("test", "ALTER TABLE server_processes RENAME TO away")
    while not member.found[-1]:
        clock.advance(RENEW)
        await database.fetch_one("test", "SELECT 1")
    assert not member.forgotten
    await database.execute("test", "ALTER TABLE away RENAME TO server_processes")
    while not member.forgotten:
        clock.advance(RENEW)
        await database.fetch_one("test", "SELECT 1")
    await member.companies.stop()


async def test_who_was_forgotten_reads_up_what_it_was_not_told(database: Database) -> None:
    """A crash of the database empties the table, and whoever is not in it is notified of nothing."""
    clock = Clock()
    member = Member(database, clock)
    await member.companies.start()
    clock.advance(RENEW)
    await database.fetch_one("test", "SELECT 1")
    assert not member.forgotten
    await database.execute("test", "TRUNCATE server_processes")
    while not member.forgotten:
        clock.advance(RENEW)
        await database.fetch_one("test", "SELECT 1")
    clock.advance(RENEW)
    await database.fetch_one("test", "SELECT 1")
    assert member.forgotten == [True]
    await member.companies.stop()


async def test_who_was_forgotten_takes_it_that_there_are_others(database: Database) -> None:
    """Who has not said yet that they are alive was forgotten as well; for as long as their lease would last."""
    clock = Clock()
    member = Member(database, clock)
    await member.companies.start()
    assert member.found == [False]
    await database.execute("test", "TRUNCATE server_processes")
    clock.advance(RENEW)
    while not member.forgotten:
        await database.fetch_one("test", "SELECT 1")
    assert member.found == [False, True]
    since = clock.seconds()
    while member.found[-1]:
        clock.advance(RENEW)
        await database.fetch_one("test", "SELECT 1")
    assert clock.seconds() - since > LEASE
    await member.companies.stop()


async def test_who_was_forgotten_and_greeted_is_found_by_its_answer(database: Database) -> None:
    """A process that starts right after a crash of the database finds nobody in the table."""
    clock = Clock()
    old, new = Member(database, clock), Member(database, clock)
    await database.listen(CHANNEL, old.companies.heard)
    await old.companies.start()
    await database.execute("test", "TRUNCATE server_processes")
    await database.listen(CHANNEL, new.companies.heard)
    await new.companies.start()  # the answer may be here before this is over
    while not new.found[-1]:
        await database.fetch_one("test", "SELECT 1")
    assert old.found[-1]
    await new.companies.stop()
    await old.companies.stop()


async def test_a_commit_notifies_whoever_is_there(database: Database) -> None:
    """Nobody by oneself; siblings, and every process in the table but the one that writes, be its lease over."""
    heard: list[str] = []
    await database.listen("stream", heard.append)
    alone = StreamStore(database, "alone", siblings=False)
    other = ServerProcessStore(database, origin="other", company="other")
    own = ServerProcessStore(database, origin="alone", company="alone")
    await own.renew(None, 1, LEASE)
    for store, notified in ((alone, False), (StreamStore(database, "one of many"), True)):
        await store.commit(StreamBatch(count=1))
        await database.fetch_one("test", "SELECT pg_notify('stream', 'last')")
        while "last" not in heard:
            await database.fetch_one("test", "SELECT 1")
        assert len(heard) == 1 + notified
        heard.clear()
    await other.renew(None, 1, -1)
    await alone.commit(StreamBatch(count=1))
    while not heard:
        await database.fetch_one("test", "SELECT 1")
