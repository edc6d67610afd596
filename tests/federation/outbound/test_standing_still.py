# SPDX-License-Identifier: Apache-2.0
"""A process that stands still for longer than its leases: the clock of a process does so unless the test moves it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from federation.outbound import OutgoingEdu
from federation.outbound.lane import Held, Lane
from federation.outbound.leases import LEASE, RENEW
from federation.outbound.transaction import Pdu
from storage.database import Database
from storage.destinations import SHARDS, DestinationStore, shard_of
from storage.outbound import OutboundEvent, Place
from storage.outbound_shards import Held as Shares
from storage.outgoing_edus import FirstEdus
from tests.federation.outbound.outbound_fixture import Others, Process
from tests.federation.outbound.test_leases import Network, Table, process

A, B = "a.test", "b.test"


async def test_nothing_is_missed_or_sent_twice_by_one_that_finds_its_shards_free_again(
    database: Database,
) -> None:
    """Another process had them meanwhile: what it delivered, and who was away when it did, only the database knows."""
    others = Others()
    still = await Process.open(database, others)
    room = await still.room_with(A, B)
    await still.say(room, "before")
    await still.settle()
    await still.renew()
    others.processes.remove(still)
    other = await Process.open(database, others, alone=True)
    others.away.add(A)
    await other.say(room, "1", "2")
    await other.settle()
    await other.stop()
    others.away.clear()
    others.processes.append(still)
    still.clock.advance(LEASE)
    await still.until(lambda: not still.outbound.sender.serves_any())
    await still.until(lambda: len(still.outbound.sender._shards) == SHARDS)
    await still.pass_time(75)
    await still.settle()
    assert others.bodies(A) == others.bodies(B) == ["before", "1", "2"]
    await still.say(room, "after")
    await still.settle()
    assert others.bodies(A) == others.bodies(B) == ["before", "1", "2", "after"]
    await still.renew()
    assert await DestinationStore(database, "test").behind(range(SHARDS)) == []
    await still.stop()


async def test_what_another_process_sent_that_was_further_is_not_sent_again(database: Database) -> None:
    """Nor is any of it missed by a server that was behind there: it is caught up as far as that process was."""
    others = Others()
    late = await Process.open(database, others)
    room = await late.room_with(A, B)
    await late.renew()
    others.processes.remove(late)  # which takes nothing in from here on
    other = await Process.open(database, others, alone=True)
    await other.say(room, "1")
    await other.settle()
    others.away.add(A)
    await other.say(room, "2", "3")
    await other.settle()
    await other.stop()
    others.away.clear()
    await late.renew()
    late.outbound.availability.succeeded(A)
    await late.renew()
    marks, _ = late.outbound.sender.books([shard_of(B)])
    assert marks == {shard_of(B): other.outbound.feed._progress.taken}
    others.processes.append(late)
    await late.settle()
    assert others.bodies(A) == others.bodies(B) == ["1", "2", "3"]
    assert not late.outbound.feed._progress.ahead
    await late.stop()


async def test_shards_that_were_lost_while_they_were_joining_join_anew(database: Database) -> None:
    """They do not count as served because what was read for the first time ended; it is offered once."""
    others = Others()
    first = await Process.open(database, others)
    room = await first.room_with(A)
    await first.renew()
    first.die()
    await first.engine.send(room.room_id, "@alice:localhost", "owed")
    second = await Process.open(database, others, alone=True)
    leases, shard = second.outbound.leases, shard_of(A)
    assert shard in leases._joining
    await database.execute("lose", "UPDATE outbound_shards SET holder = NULL WHERE shard = %s", (shard,))
    await second.renew()
    assert shard not in leases._joining.keys() | leases._held
    await second.renew()
    assert shard in leases._joining
    await second.settle()
    assert shard in leases._held
    assert others.bodies(A) == ["owed"]
    await second.stop()


async def test_no_transaction_is_begun_before_the_clock_was_looked_at(database: Database) -> None:
    """What was told while it stood still may be heard before any timer runs."""
    still = await Process.open(database)
    sender = still.outbound.sender
    still.clock.rightNow += LEASE
    await still.outbound.outbox.keep([OutgoingEdu(A, "m.test", {})])
    assert not sender._busy
    await still.until(lambda: still.others.edus(A) == [{}])
    await still.stop()


class _SlowTable(Table):
    """The first look for a server's units is answered when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.slow: Deferred[None] | None = Deferred()

    async def first(self, server_name: str, limit: int, most_bytes: int) -> FirstEdus:
        if self.slow is not None:
            await self.slow
        return await super().first(server_name, limit, most_bytes)


async def test_what_took_longer_to_load_than_the_lease_lasts_is_not_sent() -> None:
    """Another process may be sending it."""
    clock, table, network = Clock(), _SlowTable(), Network()
    sender, leases = process(clock, table, network)
    table.kept[A] += 1
    started = Deferred.fromCoroutine(leases.start())
    table.looks.pop().callback(None)
    await started
    clock.rightNow += LEASE
    slow, table.slow = cast("Deferred[None]", table.slow), None
    slow.callback(None)
    assert (network.got, sender._busy) == ([], set())
    sender.go_on(LEASE)
    assert network.got == [A]


class _LostTable(_SlowTable):
    """Once told so, all shards are another process's."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = False

    async def hold(self, *_: object, **__: object) -> Shares:
        return Shares({}, SHARDS) if self.lost else await super().hold()


async def test_nothing_is_sent_to_the_servers_of_shards_that_are_found_to_be_lost() -> None:
    """What waited until it was known whose they are is the other process's, which may have sent it."""
    clock, table, network = Clock(), _LostTable(), Network()
    table.slow = None
    sender, leases = process(clock, table, network)
    started = Deferred.fromCoroutine(leases.start())
    table.looks.pop().callback(None)
    await started
    clock.rightNow += LEASE
    table.kept[A] += 1
    sender.kept([A])
    table.lost = True
    clock.advance(0)
    assert not sender.serves(A)
    assert network.got == []


async def test_what_is_loaded_when_its_shard_was_lost_is_not_sent() -> None:
    """Though the leases of others can be relied on again by then."""
    clock, table, network = Clock(), _LostTable(), Network()
    sender, leases = process(clock, table, network)
    table.kept[A] += 1
    started = Deferred.fromCoroutine(leases.start())
    table.looks.pop().callback(None)
    await started
    table.lost = True
    clock.advance(RENEW)
    assert not sender.serves(A)
    slow, table.slow = cast("Deferred[None]", table.slow), None
    slow.callback(None)
    assert (network.got, sender._busy) == ([], set())


class _SlowEvents:
    """Nothing was missed, which is found out when the test says so."""

    def __init__(self) -> None:
        self.found: Deferred[list[Place]] = Deferred()

    async def missed(self, _server_name: str, _after: int, _upto: int, _limit: int) -> list[Place]:
        return await self.found

    async def at(self, _places: Sequence[Place]) -> list[OutboundEvent]:
        return []


async def test_what_waits_for_a_server_that_is_lost_counts_no_more() -> None:
    """Once, though its lane is just finding out what is to be sent."""
    clock, network, events = Clock(), Network(), _SlowEvents()
    sender, _ = process(clock, Table(), network, events)
    sender.serve(range(SHARDS))
    sender.go_on(LEASE)
    sender.behind([(A, 3)])
    sender.offer(Pdu(6, "$6", "{}"), [A])
    assert sender.figures["queued"]() == 1
    sender.drop(range(SHARDS))
    events.found.callback([])
    assert (sender.figures["queued"](), sender.weight, network.got) == (0, 0, [])


def _positions(lane: Lane) -> Sequence[int]:
    return [pdu.position for pdu in lane.pdus]


def test_what_is_caught_up_with_is_not_offered_as_well() -> None:
    """A shard that is taken over is offered what came after its mark, by when a server of it may be catching up."""
    lane = Lane(A, Held(2**20), behind=5)
    lane.begin_catching_up(10)
    waiting = [lane.offer(Pdu(position, f"${position}", "{}"), True) for position in (9, 10, 11)]
    assert (waiting, _positions(lane)) == ([0, 0, 1], [11])
