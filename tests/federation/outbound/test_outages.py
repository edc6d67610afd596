# SPDX-License-Identifier: Apache-2.0
"""Servers that are away: what they cost, when they are tried, and what they get when they are back."""

from __future__ import annotations

import random

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from federation.client.errors import NotAsked
from federation.outbound.delivery import Outcome
from federation.outbound.loading import Loader
from federation.outbound.progress import Progress
from federation.outbound.sender import Sender
from federation.outbound.transaction import Pdu
from storage.database import Database
from storage.destinations import SHARDS, DestinationStore
from storage.outbound import PER_ROOM, WHOLE, OutboundEvent, Place
from storage.outgoing_edus import FirstEdus
from tests.federation.outbound.outbound_fixture import Others, Process, refusal
from tests.rooms.engine_fixture import ALICE, member

A, B = "a.test", "b.test"
KIB = 1024


@pytest.mark.parametrize("missed", [WHOLE, WHOLE + 1])
async def test_a_server_that_was_away_gets_the_newest_of_each_room_then_what_is_new(
    database: Database, missed: int
) -> None:
    """All of a room where that is no more than a transaction takes. Oldest first; while it is away nothing of it is in
    memory but that it is."""
    process = await Process.open(database)
    room, other = await process.room_with(A, B), await process.room_with(A)
    process.others.away.add(A)
    said = [str(number) for number in range(missed - 1)]
    await process.say(room, *said)
    await process.say(other, "quiet")
    await process.settle()
    sender = process.outbound.sender
    assert (sender._lanes, set(sender._owed), len(sender._retries)) == ({}, {A}, 1)
    tries = process.others.tries[A]
    assert process.others.bodies(B) == said
    await process.say(room, "last")
    await process.settle()
    assert process.others.tries[A] == tries
    process.others.away.clear()
    process.others.held[A] = Deferred()
    await process.pass_time(75)
    await process.until(lambda: process.others.in_flight[A] == 1)
    await process.say(room, "meanwhile")
    process.others.held.pop(A).callback(None)
    await process.settle()
    expected = said if missed == WHOLE else said[1 - PER_ROOM :]
    assert process.others.bodies(A) == [*expected, "quiet", "last", "meanwhile"]
    await process.say(room, "live")
    await process.settle()
    assert process.others.bodies(A)[-1] == "live"
    assert (sender._lanes, sender._owed) == ({}, {})
    await process.renew()
    assert await DestinationStore(database, "test").behind(range(SHARDS)) == []
    await process.stop()


async def test_pauses_grow_and_outlive_a_restart(database: Database) -> None:
    """Ten seconds, twenty, forty; a new process does not begin again, and nor does it forget what is owed."""
    others = Others()
    first = await Process.open(database, others)
    room = await first.room_with(A)
    others.away.add(A)
    await first.say(room, "owed")
    await first.settle()
    tries = others.tries[A]
    for seconds in (13, 25):
        await first.pass_time(seconds)
        await first.settle()
        tries += 1
        assert others.tries[A] == tries
    await first.stop()
    second = await Process.open(database, others, clock=_later(first))
    await second.settle()
    await second.pass_time(35)
    assert others.tries[A] == tries
    others.away.clear()
    await second.pass_time(15)
    await second.settle()
    assert others.bodies(A) == ["owed"]
    await second.stop()


async def test_what_is_too_much_on_this_side_is_soon_tried_again(database: Database) -> None:
    """And is nothing that the server is remembered for."""
    process = await Process.open(database)
    room = await process.room_with(A)
    busy = True
    process.others.refuse = lambda name, _transaction: NotAsked(name, "too much") if busy else None
    await process.say(room, "owed")
    await process.settle()
    assert process.outbound.availability.is_well(A) and process.others.received == {}
    busy = False
    await process.pass_time(31)
    await process.settle()
    assert process.others.bodies(A) == ["owed"]
    await process.stop()


def _later(process: Process) -> Clock:
    clock = Clock()
    clock.advance(process.clock.seconds())
    return clock


async def test_a_server_that_speaks_is_tried_at_once(database: Database) -> None:
    """But not each time it speaks: it may be one that cannot be reached from here."""
    process = await Process.open(database)
    room = await process.room_with(A)
    process.others.away.add(A)
    await process.say(room, "owed")
    await process.settle()
    tries = process.others.tries[A]
    for _ in range(3):
        process.outbound.availability.spoke(A)
        await process.settle()
    assert process.others.tries[A] == tries + 1
    process.others.away.clear()
    await process.pass_time(61)
    process.outbound.availability.spoke(A)
    await process.settle()
    assert process.others.bodies(A) == ["owed"]
    await process.stop()


async def test_a_server_that_another_request_reached_gets_what_it_is_owed(database: Database) -> None:
    """Whichever process reached it."""
    others = Others()
    process = await Process.open(database, others)
    room = await process.room_with(A)
    others.away.add(A)
    await process.say(room, "owed")
    await process.settle()
    await process.pass_time(2)
    others.away.clear()
    await process.settle()
    await process.outbound.availability._write()
    other = await Process.open(database, others, clock=_later(process))
    assert not other.outbound.availability.may_try(A)
    other.outbound.availability.succeeded(A)
    await other.pass_time(2)
    await process.until(lambda: others.bodies(A) == ["owed"])
    await other.stop()
    await process.stop()


async def test_a_server_that_refuses_everything_is_left_alone(database: Database) -> None:
    """Also when it answers other requests: then each would cost a transaction in vain."""
    process = await Process.open(database)
    room = await process.room_with(A)
    process.others.refuse = lambda name, _transaction: refusal(name, 403)
    await process.say(room, "1")
    await process.settle()
    tries = process.others.tries[A]
    process.outbound.availability.succeeded(A)
    process.outbound.availability.spoke(A)
    await process.say(room, "2")
    await process.settle()
    assert process.others.tries[A] == tries
    process.others.refuse = lambda _name, _transaction: None
    await process.pass_time(75)
    await process.settle()
    assert process.others.bodies(A) == ["1", "2"]
    await process.stop()


async def test_a_server_that_left_and_came_back_gets_nothing_of_the_time_between(
    database: Database,
) -> None:
    """Though it was away all the time; what became of its members it hears."""
    process = await Process.open(database)
    room = await process.room_with(A)
    user = f"@u:{A}"
    process.others.away.add(A)
    await process.say(room, "within")
    kick = member(user, "leave", ALICE)
    await process.engine.engine.write(room.room_id, lambda _: [kick], users=(ALICE, user))
    await process.say(room, "secret")
    await process.engine.join(room.room_id, user)
    await process.say(room, "again")
    await process.settle()
    process.others.away.clear()
    await process.pass_time(75)
    await process.settle()
    assert process.others.bodies(A) == ["within", "m.room.member", "again"]
    await process.stop()


async def test_a_burst_beyond_what_waits_in_memory_is_read_back(database: Database) -> None:
    """The lane forgets what it cannot hold, and nothing of the newest is missing in the end."""
    process = await Process.open(database)
    room = await process.room_with(A)
    process.others.held[A] = Deferred()
    await process.say(room, *map(str, range(230)))
    await process.until(lambda: process.others.in_flight.get(A) == 1)
    await process.until(lambda: process.outbound.feed._progress.taken == process.engine.stream.position)
    sender = process.outbound.sender
    assert sender._queued < 200
    process.others.held.pop(A).callback(None)
    await process.settle()
    bodies = process.others.bodies(A)
    assert bodies[-PER_ROOM:] == [str(n) for n in range(230 - PER_ROOM, 230)]
    assert bodies == sorted(set(bodies), key=int)
    assert sender._queued == 0
    await process.stop()


class _OneEvent:
    """A database where every server missed one event, and nothing else is kept."""

    async def missed(self, *_: object) -> list[Place]:
        return [Place(11, 1, 1)]

    async def at(self, *_: object) -> list[OutboundEvent]:
        return [OutboundEvent(11, 1, "$11", "m.test", None, ALICE, "{}")]

    async def first(self, *_: object) -> FirstEdus:
        return FirstEdus([], more=False)

    async def remove(self, *_: object) -> None: ...


class _Dead:
    """Servers that are all away, and are tried again after ten minutes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.tried = 0
        self._again: dict[str, int] = {}

    def is_well(self, name: str) -> bool:
        return name not in self._again

    def may_send_at(self, name: str) -> int:
        return self._again.get(name, 0)

    def failed(self, name: str, _reason: str | None = None) -> None:
        self._again[name] = int(self._clock.seconds() * 1000) + 600_000

    refused = failed

    def delivered(self, name: str) -> None:
        raise AssertionError("nobody is there")

    async def deliver(self, name: str, _items: object) -> Outcome:
        from federation.client.errors import Unreachable

        self.tried += 1
        return Outcome(0, Unreachable(name, "dead"))


async def test_thousands_of_dead_servers_cost_almost_nothing() -> None:
    """One timer for all of them, no lane, no queue; events are not even looked at for them."""
    clock = Clock()
    clock.advance(1000)
    dead = _Dead(clock)
    progress = Progress(10)
    sender = Sender(
        availability=dead,
        delivery=dead,
        loader=Loader(events=_OneEvent(), edus=_OneEvent()),
        progress=progress,
        scheduler=clock,
        now=lambda: int(clock.seconds() * 1000),
        most_bytes=2**20,
    )
    sender.serve(range(SHARDS))
    sender.go_on(3600)
    names = [f"s{n}.test" for n in range(5000)]
    for position in range(11, 31):
        progress.taken = position
        sender.offer(Pdu(position, f"${position}", "{}"), names)
    assert dead.tried == 5000
    assert (len(sender._lanes), sender._queued, len(sender._owed)) == (0, 0, 5000)
    assert set(sender._owed.values()) == {10}
    assert len(clock.getDelayedCalls()) == 1
    marks, told = sender.books(range(SHARDS))
    assert set(marks.values()) == {30}
    assert len(told) == 5000
    sender.booked(told)
    assert sender.books(range(SHARDS))[1] == []
    clock.advance(601)
    assert dead.tried == 10_000
    assert (len(sender._lanes), len(sender._owed), len(clock.getDelayedCalls())) == (0, 5000, 1)
    assert sender.weight == 0
    sender.stop()


@pytest.mark.parametrize("seed", range(4))
async def test_in_the_end_everybody_has_the_newest_of_every_room(database: Database, seed: int) -> None:
    """Whatever outages, restarts and refusals come between, in order within each room, and nothing twice but after a
    crash."""
    dice = random.Random(seed)
    others = Others()
    process = await Process.open(database, others, most_bytes=KIB << (20 * (seed % 2)))
    servers = [f"s{n}.test" for n in range(4)]
    rooms = [await process.room_with(*dice.sample(servers, 3)) for _ in range(3)]
    members = {
        room.room_id: set(room.head.hosts) - {"localhost"}
        for room in map(process.engine.cache.held, [r.room_id for r in rooms])
        if room
    }
    serial = 0
    newest: dict[str, str] = {}
    for _ in range(40):
        match dice.randrange(6):
            case 0:
                others.away ^= {dice.choice(servers)}
            case 1:
                await process.pass_time(dice.choice((1, 70, 400)))
            case 2 if dice.random() < 0.3:
                await process.stop()
                process = await Process.open(database, others, clock=_later(process))
            case 3:
                await process.settle()
            case _:
                room = dice.choice(rooms)
                for _ in range(dice.randrange(1, 4)):
                    serial += 1
                    newest[room.room_id] = f"{rooms.index(room)}:{serial:04}"
                    await process.say(room, newest[room.room_id])
    others.away.clear()
    await process.settle()
    await process.pass_time(3600)
    await process.settle()
    for number, room in enumerate(rooms):
        for server in members[room.room_id]:
            got = [body for body in others.bodies(server) if body.startswith(f"{number}:")]
            assert got == sorted(set(got))
            assert not newest.get(room.room_id) or got[-1] == newest[room.room_id]
    assert process.outbound.sender.weight == 0
    await process.stop()
