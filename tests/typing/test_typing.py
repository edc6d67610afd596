# SPDX-License-Identifier: Apache-2.0
"""Typing: told at once to those in the room, here and elsewhere, and over by itself."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from itertools import count

import pytest
from twisted.internet.task import Clock

from homeserver.errors import Forbidden
from homeserver.rooms.engine import Room
from homeserver.rooms.listening import readers_in
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.typing import Typing, TypingNews
from homeserver.typing.service import GRACE
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, Engine, member


@dataclass
class Elsewhere:
    """What other servers are told."""

    told: list[tuple[str, bool]] = field(default_factory=list)

    def typing(self, _room: Room, user_id: str, *, typing: bool) -> None:
        self.told.append((user_id, typing))


@dataclass
class Others:
    has_others: bool


@dataclass
class Process:
    """One process, with a clock of the test's own."""

    engine: Engine
    time: Clock
    news: TypingNews
    typing: Typing
    elsewhere: Elsewhere
    others: Others
    told: list[str] = field(default_factory=list)

    @classmethod
    async def open(cls, database: Database, *, has_others: bool = False) -> Process:
        engine, time, ticks = await Engine.open(database), Clock(), count(1)
        elsewhere = Elsewhere()
        told: list[str] = []
        others = Others(has_others)

        async def notify(_channel: str, payload: str) -> None:
            told.append(payload)

        news = TypingNews(
            origin=secrets.token_hex(4),
            clock=EphemeralClock(lambda: next(ticks)),
            scheduler=time,
            cache=engine.cache,
            listeners=engine.stream.listeners,
            readers=readers_in(engine.cache, engine.user_rooms, engine.stream.listeners),
            notify=notify,
            others=others,
            elsewhere=elsewhere,
        )
        engine.stream.subscribe(news)
        typing = Typing(gate=engine.gate, news=news, elsewhere=elsewhere)
        return cls(engine, time, news, typing, elsewhere, others, told)

    async def room(self, *users: str) -> Room:
        room = await self.engine.new_room()
        await self.engine.join(room.room_id, *users)
        return room

    def seen(self, room: Room, since: int) -> list[str] | None:
        return self.typing.changed(ALICE, [room.key], since).get(room.key)


async def test_typing_is_told_and_runs_out(database: Database) -> None:
    """Those in the room are woken; going on typing is no news; the end is, by itself or by a word."""
    process = await Process.open(database)
    room = await process.room(BOB)
    woken = []
    listener = process.engine.stream.listen(ALICE)
    listener.wait().addCallback(lambda _: woken.append(ALICE))
    stranger = process.engine.stream.listen(CAROL)
    stranger.wait().addCallback(lambda _: woken.append(CAROL))
    await process.typing.set(BOB, BOB, room.room_id, typing=True, timeout_ms=5000)
    assert woken == [ALICE]
    assert process.seen(room, 0) == [BOB]
    at = process.news._clock.current
    process.time.advance(4)
    await process.typing.set(BOB, BOB, room.room_id, typing=True, timeout_ms=5000)
    assert process.seen(room, at) is None
    process.time.advance(4)
    assert process.seen(room, at) is None
    process.time.advance(1)
    assert process.seen(room, at) == []
    assert process.seen(room, 0) is None
    await process.typing.set(BOB, BOB, room.room_id, typing=True)
    await process.typing.set(ALICE, ALICE, room.room_id, typing=True)
    assert process.seen(room, 0) == [BOB, ALICE]
    await process.typing.set(BOB, BOB, room.room_id, typing=False)
    assert process.seen(room, at) == [ALICE]


async def test_no_timeout_is_longer_than_two_minutes(database: Database) -> None:
    """Nor is one below a millisecond an error."""
    process = await Process.open(database)
    room = await process.room()
    await process.typing.set(ALICE, ALICE, room.room_id, typing=True, timeout_ms=10**12)
    process.time.advance(120)
    assert process.seen(room, 0) is None
    await process.typing.set(ALICE, ALICE, room.room_id, typing=True, timeout_ms=-1)
    process.time.advance(1)
    assert process.news.in_room(room.key) == []


async def test_only_members_type_and_only_for_themselves(database: Database) -> None:
    """Neither strangers nor in another's name."""
    process = await Process.open(database)
    room = await process.room(BOB)
    for user_id, target in ((CAROL, CAROL), (CAROL, BOB), (ALICE, BOB)):
        with pytest.raises(Forbidden):
            await process.typing.set(user_id, target, room.room_id, typing=True)
    assert process.news.in_room(room.key) == []
    assert process.told == []


async def test_who_leaves_stops_typing(database: Database) -> None:
    """At once, also where another process wrote the leaving."""
    process, other = await Process.open(database), await Process.open(database)
    room = await process.room(BOB)
    for each in (process, other):
        await process.typing.set(BOB, BOB, room.room_id, typing=True)
        before = process.news._clock.current
        news = process.engine.stream.listen(ALICE)
        await each.engine.engine.write(room.room_id, lambda _: [member(BOB, "leave")], users=(BOB,))
        while process.news.in_room(room.key):
            await news.wait()
        assert process.seen(room, before) == []
        await process.engine.join(room.room_id, BOB)


async def test_who_is_shown_otherwise_types_on(database: Database) -> None:
    """Also where another process wrote it, which tells that something of theirs moved, not what."""
    process, other = await Process.open(database), await Process.open(database)
    room = await process.room(BOB)
    for n, each in enumerate((process, other, other)):
        await process.typing.set(BOB, BOB, room.room_id, typing=True)
        before = process.news._clock.current
        news = process.engine.stream.listen(ALICE)
        heard = news.wait()
        renamed = member(BOB, "join", displayname=f"Bob {n}")
        await each.engine.engine.write(room.room_id, lambda _, renamed=renamed: [renamed], users=(BOB,))  # type: ignore[misc]
        await heard
        while process.news.in_room(room.key) != [BOB]:
            await news.wait()
        assert process.seen(room, before) in (None, [BOB])
    process.time.advance(120)
    assert process.news.in_room(room.key) == []


def exchange(*processes: Process) -> None:
    """Each hears what all told, in one order."""
    for sender in processes:
        payloads, sender.told[:] = list(sender.told), []
        for payload in payloads:
            assert len(payload.encode()) < 8000
            for process in processes:
                process.news.heard(payload)


async def test_other_processes_hear_of_it(database: Database) -> None:
    """Beginning and end, which the process where it happened takes up with them."""
    process, other = await Process.open(database, has_others=True), await Process.open(database)
    room = await process.room(BOB)
    await process.typing.set(BOB, BOB, room.room_id, typing=True)
    assert process.news.in_room(room.key) == []
    exchange(process, other)
    assert process.news.in_room(room.key) == other.news.in_room(room.key) == [BOB]
    assert process.news._clock.current == other.news._clock.current
    await process.typing.set(BOB, BOB, room.room_id, typing=False)
    exchange(process, other)
    assert process.news.in_room(room.key) == other.news.in_room(room.key) == []
    await process.typing.set(BOB, BOB, room.room_id, typing=False)
    assert process.told == []
    await process.typing.set(BOB, BOB, room.room_id, typing=True)
    await process.typing.set(BOB, BOB, room.room_id, typing=False)
    exchange(process, other)
    assert process.news.in_room(room.key) == other.news.in_room(room.key) == []


async def test_who_is_by_itself_tells_nobody(database: Database) -> None:
    process = await Process.open(database)
    room = await process.room(BOB)
    await process.typing.set(BOB, BOB, room.room_id, typing=True)
    await process.typing.set(BOB, BOB, room.room_id, typing=False)
    await process.typing.receive(room, BOB, typing=True)
    process.time.advance(120)
    assert process.told == []


async def test_other_servers_are_told_by_the_process_where_it_happened(database: Database) -> None:
    """Of the beginning, of the end, and of the end that comes by itself; never by a process that only heard of it."""
    process, other = await Process.open(database, has_others=True), await Process.open(database)
    room = await process.room(BOB)
    for typing, timeout in ((True, 30_000), (False, 1), (False, 1), (True, 1000)):
        await process.typing.set(BOB, BOB, room.room_id, typing=typing, timeout_ms=timeout)
        exchange(process, other)
    for each in (process, other):
        each.time.advance(2)
    exchange(process, other)
    assert process.news.in_room(room.key) == other.news.in_room(room.key) == []
    assert process.elsewhere.told == [(BOB, True), (BOB, False), (BOB, True), (BOB, False)]
    assert other.elsewhere.told == []


async def test_users_of_other_servers_type_for_a_minute_at_most(database: Database) -> None:
    """Other processes hear of it, other servers do not: each tells of its own users."""
    process, other = await Process.open(database, has_others=True), await Process.open(database)
    room = await process.room(BOB)
    await process.typing.receive(room, BOB, typing=True)
    exchange(process, other)
    assert process.seen(room, 0) == [BOB] == other.news.in_room(room.key)
    for each in (process, other):
        each.time.advance(60)
    exchange(process, other)
    for each in (process, other):
        assert each.news.in_room(room.key) == []
        assert each.elsewhere.told == []
    await process.typing.receive(room, BOB, typing=False)
    assert process.told == []


async def test_whose_process_is_gone_stops_typing(database: Database) -> None:
    """Another announces the end in its place; one that cannot be announced comes all the same."""
    process, other = await Process.open(database, has_others=True), await Process.open(database)
    room = await process.room(BOB)
    await process.typing.set(BOB, BOB, room.room_id, typing=True, timeout_ms=1000)
    exchange(process, other)
    process.news.stop()
    other.others.has_others = True
    other.time.advance(1)
    assert other.told == []
    other.time.advance(GRACE)
    assert len(other.told) == 1
    assert other.news.in_room(room.key) == [BOB]
    at = other.news._clock.current
    other.time.advance(GRACE)
    assert other.seen(room, at) == []


async def test_who_left_before_the_beginning_was_heard_stops_typing(database: Database) -> None:
    """What a user said while they were in the room may be heard after they left it."""
    process, other = await Process.open(database, has_others=True), await Process.open(database)
    room = await process.room(BOB)
    await process.typing.set(BOB, BOB, room.room_id, typing=True)
    await process.engine.engine.write(room.room_id, lambda _: [member(BOB, "leave")], users=(BOB,))
    exchange(process, other)
    assert other.news.in_room(room.key) == [BOB]
    exchange(process, other)
    assert other.news.in_room(room.key) == process.news.in_room(room.key) == []


async def test_who_began_as_notifications_got_lost_does_not_count_for_ever(database: Database) -> None:
    """Nor is it told that they stopped: the other processes end what they know."""
    process = await Process.open(database, has_others=True)
    room = await process.room(BOB)
    await process.typing.set(BOB, BOB, room.room_id, typing=True)
    assert process.news.count(room.key) == 1
    process.news.missed()
    assert process.news.count(room.key) == 0


async def test_what_is_heard_after_the_end_begins_nothing(database: Database) -> None:
    """Nor what had been asked before it."""
    process, other = await Process.open(database, has_others=True), await Process.open(database)
    room = await process.room(BOB)
    await process.typing.set(BOB, BOB, room.room_id, typing=True)
    process.news.stop()
    process.news._end(room.key, BOB)
    exchange(process, other)
    assert process.time.getDelayedCalls() == []
    assert process.news.in_room(room.key) == []
