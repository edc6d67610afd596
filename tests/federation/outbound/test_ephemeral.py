# SPDX-License-Identifier: Apache-2.0
"""Ephemeral units: kept ones arrive, fleeting ones arrive soon or never."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from federation.outbound import OutgoingEdu
from federation.outbound.leases import LOOK
from federation.outbound.sender import MOST_IN_FLIGHT
from federation.outbound.transaction import MOST_EDUS
from storage.database import Database, DatabaseUnavailable
from storage.outgoing_edus import FirstEdus, NewEdu, OutgoingEduStore
from storage.receipts import Receipt
from tests.federation.outbound.outbound_fixture import Others, Process
from tests.rooms.engine_fixture import ALICE, BOB

A, B = "a.test", "b.test"


def unit(n: object, destination: str = A, key: str | None = None) -> OutgoingEdu:
    return OutgoingEdu(destination, "m.test", {"n": n}, key)


async def test_kept_units_arrive_in_order_though_the_server_was_away_and_we_restarted(
    database: Database,
) -> None:
    """In transactions of at most a hundred; of those with a key, the newest only, in its place."""
    others = Others()
    first = await Process.open(database, others)
    others.away.add(A)
    await first.outbound.outbox.keep([unit(n) for n in range(150)])
    await first.outbound.outbox.keep([unit("old", key="k"), unit("older", B)])
    await first.settle()
    await first.outbound.outbox.keep([unit("new", key="k")])
    await first.stop()
    others.away.clear()
    clock = first.clock
    second = await Process.open(database, others, clock=clock)
    await second.pass_time(75)
    await second.settle()
    assert [content["n"] for content in others.edus(A)] == [*range(150), "new"]
    assert [content["n"] for content in others.edus(B)] == ["older"]
    assert await database.fetch("kept", "SELECT id FROM outgoing_edus") == []
    await second.stop()


async def test_more_kept_units_than_a_transaction_may_hold_make_two(database: Database) -> None:
    """The first is full, the one that is left follows at once; fleeting ones wait for room."""
    process = await Process.open(database)
    process.others.held[A] = Deferred()
    process.outbound.outbox.pass_on([unit("first")])
    await process.until(lambda: process.others.in_flight.get(A) == 1)
    await process.outbound.outbox.keep([unit(n) for n in range(MOST_EDUS + 1)])
    process.outbound.outbox.pass_on([unit("fleeting")])
    process.others.held.pop(A).callback(None)
    await process.settle()
    _, full, rest = process.others.received[A]
    assert [edu["content"]["n"] for edu in full.edus] == list(range(MOST_EDUS))
    assert [edu["content"]["n"] for edu in rest.edus] == [MOST_EDUS, "fleeting"]
    await process.stop()


async def test_a_unit_that_is_replaced_while_it_is_on_its_way_is_sent_in_its_new_form(
    database: Database,
) -> None:
    """What arrived was the old one."""
    process = await Process.open(database)
    process.others.held[A] = Deferred()
    await process.outbound.outbox.keep([unit("old", key="k")])
    await process.until(lambda: process.others.in_flight.get(A) == 1)
    await process.outbound.outbox.keep([unit("new", key="k")])
    process.others.held.pop(A).callback(None)
    await process.settle()
    assert [content["n"] for content in process.others.edus(A)] == ["old", "new"]
    await process.stop()


async def test_what_waits_for_a_dead_server_is_bounded(database: Database) -> None:
    """The oldest go first."""
    store = OutgoingEduStore(database)
    process = await Process.open(database)
    process.others.away.add(A)
    await process.outbound.outbox.keep([unit(n) for n in range(30)])
    await process.settle()
    assert await store.trim([A, B], 10) == 20
    assert [edu.content for edu in (await store.first(A, 2, 100)).edus] == ['{"n":20}', '{"n":21}']
    await process.stop()


async def test_fleeting_units_of_one_key_are_one(database: Database) -> None:
    """The newest; those for a server that is away are dropped."""
    process = await Process.open(database)
    process.others.held[A] = Deferred()
    process.outbound.outbox.pass_on([unit("first", key="k")])
    await process.until(lambda: process.others.in_flight.get(A) == 1)
    process.outbound.outbox.pass_on([unit(1, key="k"), unit(2, key="k"), unit("other"), unit("another")])
    process.outbound.outbox.pass_on([unit(3, key="k"), unit("ours", "localhost")])
    process.others.held.pop(A).callback(None)
    await process.settle()
    assert [content["n"] for content in process.others.edus(A)] == ["first", "other", "another", 3]
    process.others.away.add(A)
    process.outbound.outbox.pass_on([unit("lost")])
    await process.settle()
    process.outbound.outbox.pass_on([unit("lost too")])
    process.others.away.clear()
    await process.pass_time(75)
    process.outbound.outbox.pass_on([unit("back")])
    await process.settle()
    assert [content["n"] for content in process.others.edus(A)][4:] == ["back"]
    await process.stop()


async def test_units_for_servers_of_another_process_reach_it(database: Database) -> None:
    """Kept ones and fleeting ones, from either process."""
    others = Others()
    one = await Process.open(database, others)
    two = await Process.open(database, others)
    await one.settle()
    await one.renew()
    await two.until(lambda: len(two.outbound.sender._shards) == 32 == len(one.outbound.sender._shards))
    servers = [f"server-{n}-with-a-rather-long-name.test" for n in range(300)]
    for process in (one, two):
        process.outbound.outbox.pass_on([unit("fleeting", server) for server in servers])
        await process.outbound.outbox.keep([unit("kept", server) for server in servers])
    await one.until(lambda: all(len(others.edus(server)) == 4 for server in servers))
    await two.stop()
    await one.stop()


async def test_units_that_were_told_while_nobody_listened_are_sent(database: Database) -> None:
    """As soon as it listens again; and without that, before long."""
    process = await Process.open(database)
    await process.settle()
    store = OutgoingEduStore(database)
    await store.add([NewEdu(server, "m.test", None, "{}") for server in (A, A, B)])
    assert await store.waiting() == {A, B}
    database.interrupted()
    await process.until(lambda: (len(process.others.edus(A)), len(process.others.edus(B))) == (2, 1))
    await process.settle()
    assert await store.waiting() == set()
    await store.add([NewEdu(A, "m.test", None, "{}")])
    await process.pass_time(LOOK)
    await process.until(lambda: len(process.others.edus(A)) == 3)
    await process.stop()


async def test_typing_and_receipts_go_to_the_servers_of_the_room(database: Database) -> None:
    """Going on typing is repeated now and then only; a receipt says where in which thread."""
    process = await Process.open(database)
    room = await process.room_with(A)
    own = await process.engine.new_room()
    told = process.outbound.elsewhere
    for place in (room, own):
        for _ in range(3):
            told.typing(place, ALICE, typing=True)
    await process.settle()
    typing = {"room_id": room.room_id, "user_id": ALICE, "typing": True}
    assert process.others.edus(A, "m.typing") == [typing]
    await process.pass_time(31)
    told.typing(room, ALICE, typing=True)
    await process.settle()
    told.typing(room, ALICE, typing=False)
    told.receipts(
        room,
        [
            Receipt(1, room.key, ALICE, False, "", "$1", 5, 1000),
            Receipt(2, room.key, ALICE, False, "main", "$2", 6, 2000),
        ],
    )
    await process.settle()
    assert process.others.edus(A, "m.typing") == [typing, typing, {**typing, "typing": False}]
    assert process.others.edus(A, "m.receipt") == [
        {room.room_id: {"m.read": {ALICE: {"event_ids": ["$1"], "data": {"ts": 1000}}}}},
        {room.room_id: {"m.read": {ALICE: {"event_ids": ["$2"], "data": {"ts": 2000, "thread_id": "main"}}}}},
    ]
    assert set(process.others.received) == {A}
    await process.stop()


async def test_presence_goes_to_the_servers_that_share_a_room(database: Database) -> None:
    """Also a room that is not in memory; to nobody else."""
    process = await Process.open(database)
    await process.room_with(A)
    other = await process.room_with(B)
    await process.engine.join(other.room_id, BOB)
    await process.settle()
    process.others.received.clear()
    process.engine.cache.mark_stale(other.room_id)
    assert await process.neighbours.servers_of(ALICE) == {A, B}
    assert await process.neighbours.servers_of(BOB) == {B}
    assert await process.neighbours.servers_in(other.room_id) == {B}
    content = {"presence": "online", "currently_active": True, "last_active_ago": 5, "status_msg": "hi"}
    process.outbound.elsewhere.presence([(ALICE, content), (BOB, {"presence": "offline", "avatar_url": "x"})])
    await process.until(lambda: len(process.others.edus(B)) == 2 and len(process.others.edus(A)) == 1)
    assert process.others.edus(A) == [{"push": [{"user_id": ALICE, **content}]}]
    assert {"push": [{"user_id": BOB, "presence": "offline", "last_active_ago": 0}]} in process.others.edus(B)
    await process.stop()


async def test_a_bounded_number_of_transactions_is_under_way_at_once(database: Database) -> None:
    """Whoever waits gets a turn."""
    process = await Process.open(database)
    servers = [f"s{n}.test" for n in range(250)]
    process.others.held = {server: Deferred() for server in servers}
    process.outbound.outbox.pass_on([unit(1, server) for server in servers])
    await process.until(lambda: sum(process.others.in_flight.values()) == MOST_IN_FLIGHT)
    held, process.others.held = process.others.held, {}
    for waiting in held.values():
        waiting.callback(None)
    await process.settle()
    assert all(len(process.others.edus(server)) == 1 for server in servers)
    assert process.others.most_in_flight == MOST_IN_FLIGHT
    await process.stop()


async def test_what_the_database_could_not_give_is_sent_later(database: Database) -> None:
    """Trouble on this side is not held against the server, and costs neither events nor units."""
    process = await Process.open(database)
    room = await process.room_with(A)
    loader = process.outbound.sender._loader
    edus = loader._edus

    class Broken:
        async def first(self, *_: object) -> FirstEdus:
            raise DatabaseUnavailable("for a moment")

        async def remove(self, *_: object) -> None: ...

    loader._edus = Broken()
    await process.outbound.outbox.keep([unit("kept")])
    await process.say(room, "said")
    await process.settle()
    assert process.others.received == {}
    loader._edus = edus
    assert process.outbound.availability.is_well(A)
    await process.pass_time(31)
    await process.settle()
    assert process.others.bodies(A) == ["said"]
    assert [content["n"] for content in process.others.edus(A)] == ["kept"]
    assert process.outbound.sender._queued == 0
    await process.stop()
