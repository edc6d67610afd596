# SPDX-License-Identifier: Apache-2.0
"""Presence on a real Postgres, with a clock of the test's own: states, who learns of them, and at what cost."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from twisted.internet.task import Clock, deferLater

from homeserver.errors import Forbidden, InvalidParam
from homeserver.presence import Board, Presence, RemotePresence, Sharing
from homeserver.presence.service import MOST_REMOTE
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.web.hearing import NoOthers
from storage.database import Database, Transaction
from storage.presence import PresenceStore
from storage.users import NewUser, UserStore
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, Engine, member

START = 1_700_000_000


@dataclass
class Elsewhere:
    """What other servers are told."""

    told: list[tuple[str, str]] = field(default_factory=list)

    def presence(self, people: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        self.told.extend((user_id, content["presence"]) for user_id, content in people)


@dataclass
class Process:
    """One process with presence."""

    engine: Engine
    time: Clock
    clock: EphemeralClock
    presence: Presence
    told: list[str]
    elsewhere: Elsewhere
    failing: list[int]
    """As many notifications as fail next."""

    @classmethod
    async def open(
        cls,
        database: Database,
        *,
        enabled: bool = True,
        time: Clock | None = None,
        most_remote: int = MOST_REMOTE,
    ) -> Process:
        engine = await Engine.open(database)
        if time is None:
            time = Clock()
            time.advance(START)

        def now() -> int:
            return int(time.seconds() * 1000)

        told: list[str] = []

        failing: list[int] = []

        async def notify(_channel: str, payloads: Sequence[str]) -> None:
            if failing:
                failing.pop()
                raise OSError("gone")
            told.extend(payloads)

        clock, sharing, store = EphemeralClock(now), Sharing(), PresenceStore(database)
        elsewhere = Elsewhere()
        board = Board(sharing=sharing, is_ours=lambda user_id: user_id.endswith(":localhost"), now=now)
        presence = Presence(
            enabled=enabled,
            board=board,
            sharing=sharing,
            origin=secrets.token_hex(4),
            store=store,
            user_rooms=engine.user_rooms,
            listeners=engine.stream.listeners,
            elsewhere=elsewhere,
            notify=notify,
            others=NoOthers(),
            scheduler=time,
            clock=clock,
            now=now,
            most_remote=most_remote,
        )
        engine.stream.subscribe(sharing)
        engine.cache.on_remote(sharing.moved)
        await presence.start()
        return cls(engine, time, clock, presence, told, elsewhere, failing)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps, and what it sets off finish."""
        for _ in range(round(seconds / 0.5)):
            self.time.advance(0.5)
            while self.presence._flushing:
                await deferLater(reactor, 0)

    def seen_by(self, user_id: str, since: int = 0, position: int | None = None) -> dict[str, Any]:
        """The contents a sync since then gives the user, by sender."""
        events = self.presence.changed(user_id, since, position)
        return {event["sender"]: event["content"] for event in events}

    def states(self, user_id: str, since: int = 0, position: int | None = None) -> dict[str, str]:
        return {sender: told["presence"] for sender, told in self.seen_by(user_id, since, position).items()}


async def add_users(database: Database) -> None:
    store = UserStore(database)

    async def create(txn: Transaction) -> None:
        for user_id in (ALICE, BOB, CAROL):
            await store.create_txn(txn, NewUser(user_id=user_id, password_hash=None), 0)

    await database.transaction("test", create)


async def world(database: Database, **options: Any) -> Process:
    """Alice and Bob share a room; Carol is a stranger who has a room of her own."""
    process = await Process.open(database, **options)
    await add_users(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    await process.engine.new_room(CAROL)
    return process


async def test_polling_makes_online_idleness_unavailable_and_silence_offline(database: Database) -> None:
    """Each change is told to those who share a room, once."""
    process = await world(database)
    for user_id in (ALICE, BOB, CAROL):
        process.presence.seen(user_id, "D", "online")
    await process.pass_time(1)
    assert process.states(ALICE) == {ALICE: "online", BOB: "online"}
    assert process.seen_by(ALICE)[BOB]["currently_active"] is True
    assert process.states(CAROL) == {CAROL: "online"}
    at = process.clock.current
    assert process.states(ALICE, at) == {}
    for _ in range(16):
        await process.pass_time(20)
        process.presence.seen(BOB, "D", "online")
        process.presence.active(ALICE)
        process.presence.seen(ALICE, "D", "online")
    assert process.states(ALICE, at) == {BOB: "unavailable"}
    at = process.clock.current
    process.presence.active(BOB)
    await process.pass_time(5)
    assert process.states(ALICE, at) == {BOB: "online"}
    at = process.clock.current
    await process.pass_time(60)
    assert process.states(ALICE, at) == {ALICE: "offline", BOB: "offline"}
    assert process.states(ALICE) == {}
    await process.presence.stop()


async def test_an_open_connection_is_presence(database: Database) -> None:
    """However long it lasts; only the user being idle changes anything."""
    process = await world(database)
    listener = process.engine.stream.listen(BOB)
    process.presence.seen(BOB, "D", "online")
    process.presence.seen(ALICE, "D", "online")
    await process.pass_time(120)
    assert process.states(ALICE) == {BOB: "online"}
    listener.close()
    await process.pass_time(60)
    assert process.states(ALICE) == {}
    await process.presence.stop()


async def test_presence_does_not_leak_to_strangers(database: Database) -> None:
    """Not by sync, not by being woken, not by asking; and not once they parted."""
    process = await world(database)
    woken = []
    for user_id in (ALICE, CAROL):
        process.presence.seen(user_id, "D", "online")
    await process.pass_time(1)
    for user_id in (ALICE, CAROL):
        process.engine.stream.listen(user_id).wait().addCallback(lambda _, who: woken.append(who), user_id)
    at = process.clock.current
    await process.presence.put(BOB, BOB, "D", "online", "hi")
    await process.pass_time(1)
    assert woken == [ALICE]
    assert process.states(CAROL) == {CAROL: "online"}
    assert process.states(CAROL, at) == {}
    assert (await process.presence.get(ALICE, BOB))["status_msg"] == "hi"
    for target in (BOB, "@nobody:localhost"):
        with pytest.raises(Forbidden):
            await process.presence.get(CAROL, target)
    room = next(iter(await process.engine.user_rooms.joined(BOB))).room_id
    await process.engine.engine.write(room, lambda _: [member(BOB, "leave")], users=(BOB,))
    await process.pass_time(6)
    at = process.clock.current
    await process.presence.put(BOB, BOB, "D", "unavailable", "gone")
    await process.pass_time(6)
    assert BOB not in process.states(ALICE, at)
    with pytest.raises(Forbidden):
        await process.presence.get(ALICE, BOB)
    await process.presence.stop()


async def test_who_joins_learns_who_is_there_and_is_shown(database: Database) -> None:
    """Both directions, though nobody's state changed."""
    process = await world(database)
    for user_id in (ALICE, BOB, CAROL):
        process.presence.seen(user_id, "D", "online")
    await process.pass_time(5)
    at, position = process.clock.current, process.engine.stream.position
    room = next(iter(await process.engine.user_rooms.joined(BOB))).room_id
    assert process.presence.is_known(ALICE, at, moved=True)
    await process.engine.join(room, CAROL)
    assert not process.presence.is_known(ALICE, at, moved=True)
    await process.presence.learn()
    assert process.presence.is_known(ALICE, at, moved=True)
    assert process.states(CAROL, at, position) == {ALICE: "online", BOB: "online", CAROL: "online"}
    assert process.states(ALICE, at, position) == {CAROL: "online"}
    assert process.states(ALICE, at, process.engine.stream.position) == {}
    await process.presence.stop()


async def test_what_a_user_sets(database: Database) -> None:
    """Only for themselves, only states there are; the message stays until another is set, also over a restart."""
    process = await world(database)
    presence = process.presence
    await presence.put(BOB, BOB, "D", "unavailable", "In a meeting")
    presence.seen(ALICE, "D", "online")
    await process.pass_time(1)
    assert process.seen_by(ALICE)[BOB] == {
        "presence": "unavailable",
        "status_msg": "In a meeting",
        "last_active_ago": 1000,
    }
    presence.seen(BOB, "D", "online")
    await process.pass_time(5)
    assert process.states(ALICE)[BOB] == "unavailable"
    presence.active(BOB)
    await process.pass_time(5)
    assert process.states(ALICE)[BOB] == "online"
    await presence.put(BOB, BOB, "D", "offline", None, keep_status=True)
    presence.seen(BOB, "D", "online")
    assert await presence.get(ALICE, BOB) | {"last_active_ago": 0} == {
        "presence": "offline",
        "status_msg": "In a meeting",
        "last_active_ago": 0,
    }
    await process.pass_time(40)
    presence.seen(BOB, "D", "online")
    assert (await presence.get(ALICE, BOB))["presence"] == "online"
    for state, status in (("busy", None), ("online", "x" * 501), ("online", "\0")):
        with pytest.raises(InvalidParam):
            await presence.put(BOB, BOB, "D", state, status)
    with pytest.raises(Forbidden):
        await presence.put(ALICE, BOB, "D", "online", None)
    await presence.stop()
    fresh = await Process.open(database)
    assert (await fresh.presence.get(ALICE, BOB))["status_msg"] == "In a meeting"
    await fresh.presence.put(BOB, BOB, "D", "online", None)
    assert "status_msg" not in await fresh.presence.get(ALICE, BOB)
    await fresh.presence.stop()


async def test_who_does_not_come_back_after_a_restart_is_told_to_be_gone(database: Database) -> None:
    """Clients still show what they were told before it."""
    process = await world(database)
    process.presence.seen(BOB, "D", "online")
    await process.pass_time(1)
    at = process.clock.current
    await process.presence.stop()
    fresh = await Process.open(database, time=process.time)
    fresh.presence.seen(ALICE, "D", "online")
    await fresh.pass_time(5)
    assert fresh.states(ALICE, at)[BOB] == "online"
    at = fresh.clock.current
    await fresh.pass_time(40)
    assert fresh.states(ALICE, at)[BOB] == "offline"
    await fresh.presence.stop()


async def test_a_new_name_is_told_with_presence(database: Database) -> None:
    process = await world(database)
    process.presence.seen(ALICE, "D", "online")
    process.presence.seen(BOB, "D", "online")
    await process.pass_time(5)
    at = process.clock.current
    process.presence.profile_changed(BOB, {"displayname": "Bob", "avatar_url": None})
    await process.pass_time(5)
    assert process.seen_by(ALICE, at)[BOB]["displayname"] == "Bob"
    await process.presence.stop()


async def exchange(process: Process, other: Process) -> None:
    """Let two processes hear what each tells, until there is nothing more."""
    while process.told or other.told:
        for sender, receiver in ((process, other), (other, process)):
            payloads, sender.told[:] = list(sender.told), []
            for payload in payloads:
                assert len(payload.encode()) < 8000
                await receiver.presence.heard(payload)
                await sender.presence.heard(payload)


async def test_of_other_servers_users_those_heard_of_last_are_remembered(database: Database) -> None:
    """However many are told of at once."""
    process = await world(database, most_remote=10)
    room = await process.engine.new_room()
    people = [f"@p{number}:other.test" for number in range(30)]
    await process.engine.join(room.room_id, *people)

    async def online() -> list[str]:
        return [each for each in people if (await process.presence.get(ALICE, each))["presence"] == "online"]

    for user_id in people:
        process.time.advance(0.01)
        await process.presence.receive([RemotePresence(user_id, "online", None, 0)])
    assert people[-9:] == (await online())[-9:]
    assert len(await online()) <= 10
    await process.presence.receive([RemotePresence(user_id, "online", None, 0) for user_id in people])
    assert 0 < len(await online()) <= 10
    other = await Process.open(database, time=process.time)
    await exchange(process, other)
    process.time.advance(60)
    await other.presence.receive([RemotePresence(user_id, "unavailable", None, 0) for user_id in people])
    await other.pass_time(1)
    await exchange(process, other)
    board = process.presence._board
    assert (
        {person.user_id for person in board} == board._published.keys() == process.presence._sharing._tracked
    )
    assert 0 < len(board._published) <= 10
    await process.presence.stop()
    await other.presence.stop()


async def test_processes_tell_each_other(database: Database) -> None:
    """One alone says nothing but its greeting; two know of each other's users, until one is not heard of any more."""
    process = await world(database)
    process.presence.seen(BOB, "D", "online")
    await process.pass_time(5)
    assert len(process.told) == 1
    other = await Process.open(database, time=process.time)
    await exchange(process, other)
    other.presence.seen(ALICE, "D", "online")
    await other.pass_time(5)
    assert other.states(ALICE) == {BOB: "online"}
    await exchange(process, other)
    at = other.clock.current
    for each in (process, other):
        await each.presence.learn()
        assert each.states(ALICE) == {ALICE: "online", BOB: "online"}
        assert each.clock.current == at
    await process.presence.put(BOB, BOB, "D", "unavailable", "tea")
    await exchange(process, other)
    for each in (process, other):
        assert each.seen_by(ALICE, at)[BOB]["status_msg"] == "tea"
        assert each.states(ALICE, at)[BOB] == "unavailable"
    await process.presence.stop()
    for _ in range(8):
        await other.pass_time(30)
        payloads, other.told[:] = list(other.told), []
        for payload in payloads:
            await other.presence.heard(payload)
    assert BOB not in other.states(ALICE)
    assert other.states(ALICE, at)[BOB] == "offline"
    await other.presence.stop()


async def test_what_could_not_be_told_is_told_later(database: Database) -> None:
    """A notification that fails loses nothing."""
    process = await world(database)
    other = await Process.open(database, time=process.time)
    await exchange(process, other)
    process.failing.append(1)
    with pytest.raises(OSError, match="gone"):
        await process.presence.put(BOB, BOB, "D", "online", "tea")
    await process.pass_time(1)
    await exchange(process, other)
    for each in (process, other):
        assert (await each.presence.get(ALICE, BOB))["status_msg"] == "tea"
        await each.presence.stop()


async def test_who_is_taken_for_gone_by_mistake_says_so(database: Database) -> None:
    """Its users are back with its answer."""
    process = await world(database)
    other = await Process.open(database, time=process.time)
    await exchange(process, other)
    process.presence.seen(BOB, "D", "online")
    await process.pass_time(1)
    await exchange(process, other)
    process.presence._listeners.open(BOB)
    other.told.append(other.presence._peers._words.gone([process.presence._peers.origin]))
    for each in (process, other):
        await each.presence.heard(other.told[0])
    assert (await other.presence.get(ALICE, BOB))["presence"] == "offline"
    other.told.clear()
    await exchange(process, other)
    for each in (process, other):
        assert (await each.presence.get(ALICE, BOB))["presence"] == "online"
        await each.presence.stop()


async def test_what_is_set_is_told_before_it_is_answered(database: Database) -> None:
    """Whoever asks another process next is told so; nothing waits for the next batch."""
    process = await world(database)
    other = await Process.open(database, time=process.time)
    await exchange(process, other)
    await process.presence.put(BOB, BOB, "D", "online", "tea")
    await exchange(process, other)
    told = await other.presence.get(ALICE, BOB)
    assert (told["presence"], told["status_msg"]) == ("online", "tea")
    await process.presence.stop()
    await other.presence.stop()


async def test_what_was_set_alone_is_told_to_whom_is_heard_first(database: Database) -> None:
    """A process that has just begun has heard nobody yet, and knows of nobody to tell."""
    process = await world(database)
    other = await Process.open(database, time=process.time)
    greeting = other.told.pop()  # which is answered late
    await other.presence.put(BOB, BOB, "D", "online", "tea")
    assert not other.told
    process.told.clear()
    await process.presence.heard(greeting)
    await exchange(process, other)
    told = await process.presence.get(ALICE, BOB)
    assert (told["presence"], told["status_msg"]) == ("online", "tea")
    await process.presence.stop()
    await other.presence.stop()


async def test_the_cost_is_bounded(database: Database) -> None:
    """A batch that woke many is followed by a long pause, whatever happens meanwhile; one user is told seldom."""
    process = await world(database)
    process.presence.seen(ALICE, "D", "online")
    await process.pass_time(1)
    wakes = 0
    listener = process.engine.stream.listen(ALICE)

    def woken(_: object) -> None:
        nonlocal wakes
        wakes += 1
        listener.wait().addCallback(woken)

    listener.wait().addCallback(woken)
    for n in range(40):
        await process.presence.put(BOB, BOB, "D", "online", f"{n}")
        await process.pass_time(0.5)
    assert 3 <= wakes <= 8
    await process.presence.stop()


async def test_disabled(database: Database) -> None:
    """Nothing in sync, nobody online, nothing kept; still only those who share a room may ask."""
    process = await world(database, enabled=False)
    process.presence.seen(BOB, "D", "online")
    await process.presence.put(BOB, BOB, "D", "online", "hi")
    await process.pass_time(10)
    assert process.presence.changed(BOB, 0) == ()
    assert await process.presence.get(ALICE, BOB) == {"presence": "offline"}
    with pytest.raises(Forbidden):
        await process.presence.get(CAROL, BOB)
    assert await PresenceStore(database).get([BOB]) == {}
    await process.presence.stop()


async def test_other_servers_are_told_of_changes_and_reminded(database: Database) -> None:
    """Once for each change, by the process where it happened, and again before they take silence for absence."""
    process = await world(database)
    process.presence.seen(ALICE, "D", "online")
    await process.pass_time(2)
    process.presence.seen(ALICE, "D", "online")
    await process.pass_time(2)
    assert process.elsewhere.told == [(ALICE, "online")]
    for _ in range(80):
        await process.pass_time(20)
        process.presence.active(ALICE)
        process.presence.seen(ALICE, "D", "online")
    assert process.elsewhere.told == [(ALICE, "online"), (ALICE, "online")]
    await process.pass_time(60)
    assert process.elsewhere.told[2:] == [(ALICE, "offline")]
    await process.presence.stop()
