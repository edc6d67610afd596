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
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, Engine, member


@dataclass
class Elsewhere:
    """What other servers are told."""

    told: list[tuple[str, bool]] = field(default_factory=list)

    def typing(self, _room: Room, user_id: str, *, typing: bool) -> None:
        self.told.append((user_id, typing))


@dataclass
class Process:
    """One process, with a clock of the test's own."""

    engine: Engine
    time: Clock
    news: TypingNews
    typing: Typing
    elsewhere: Elsewhere
    told: list[str] = field(default_factory=list)

    @classmethod
    async def open(cls, database: Database) -> Process:
        engine, time, ticks = await Engine.open(database), Clock(), count(1)
        elsewhere = Elsewhere()
        news = TypingNews(
            clock=EphemeralClock(lambda: next(ticks)),
            scheduler=time,
            cache=engine.cache,
            listeners=engine.stream.listeners,
            readers=readers_in(engine.cache, engine.user_rooms, engine.stream.listeners),
            elsewhere=elsewhere,
        )
        engine.stream.subscribe(news)
        told: list[str] = []

        async def notify(_channel: str, payload: str) -> None:
            told.append(payload)

        typing = Typing(
            origin=secrets.token_hex(4), gate=engine.gate, news=news, notify=notify, elsewhere=elsewhere
        )
        return cls(engine, time, news, typing, elsewhere, told)

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
        woken = process.engine.stream.listen(ALICE).wait()
        await each.engine.engine.write(room.room_id, lambda _: [member(BOB, "leave")], users=(BOB,))
        await woken
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


async def test_other_processes_hear_of_it(database: Database) -> None:
    """Beginning and end; what they are told is within a notification's limit, and their own echo changes nothing."""
    process, other = await Process.open(database), await Process.open(database)
    room = await process.room(BOB)
    await process.typing.set(BOB, BOB, room.room_id, typing=True)
    for payload in process.told:
        process.typing.heard(payload)
        other.typing.heard(payload)
        assert len(payload.encode()) < 8000
    assert process.news.in_room(room.key) == other.news.in_room(room.key) == [BOB]
    await process.typing.set(BOB, BOB, room.room_id, typing=False)
    other.typing.heard(process.told[-1])
    assert other.news.in_room(room.key) == []
    await process.typing.set(BOB, BOB, room.room_id, typing=False)
    assert len(process.told) == 2


async def test_other_servers_are_told_by_the_process_where_it_happened(database: Database) -> None:
    """Of the beginning, of the end, and of the end that comes by itself; never by a process that only heard of it."""
    process, other = await Process.open(database), await Process.open(database)
    room = await process.room(BOB)
    await process.typing.set(BOB, BOB, room.room_id, typing=True)
    await process.typing.set(BOB, BOB, room.room_id, typing=False)
    await process.typing.set(BOB, BOB, room.room_id, typing=False)
    await process.typing.set(BOB, BOB, room.room_id, typing=True, timeout_ms=1000)
    for payload in process.told:
        other.typing.heard(payload)
    for each in (process, other):
        each.time.advance(2)
        assert each.news.in_room(room.key) == []
    assert process.elsewhere.told == [(BOB, True), (BOB, False), (BOB, True), (BOB, False)]
    assert other.elsewhere.told == []


async def test_users_of_other_servers_type_for_a_minute_at_most(database: Database) -> None:
    """Other processes hear of it, other servers do not: each tells of its own users."""
    process, other = await Process.open(database), await Process.open(database)
    room = await process.room(BOB)
    await process.typing.receive(room, BOB, typing=True)
    other.typing.heard(process.told[0])
    assert process.seen(room, 0) == [BOB] == other.news.in_room(room.key)
    for each in (process, other):
        each.time.advance(60)
        assert each.news.in_room(room.key) == []
        assert each.elsewhere.told == []
    await process.typing.receive(room, BOB, typing=False)
    assert len(process.told) == 1
