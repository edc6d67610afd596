# SPDX-License-Identifier: Apache-2.0
"""Events reach the servers they concern, in order, whatever process writes them and whatever is restarted between."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from homeserver.rooms.engine import Draft
from homeserver.rooms.engine.working import DUMMY
from storage.database import Database
from storage.destinations import SHARDS, shard_of
from tests.federation.outbound.outbound_fixture import Others, Process
from tests.rooms.engine_fixture import ALICE, member

A, B = "a.test", "b.test"


async def test_events_arrive_in_order_at_each_server_of_the_room(database: Database) -> None:
    """One transaction after another, each with an id of its own; canonical as it stands."""
    process = await Process.open(database)
    room = await process.room_with(A, B)
    said = [str(n) for n in range(120)]
    await process.say(room, *said)
    await process.settle()
    for server in (A, B):
        assert process.others.bodies(server) == said
        ids = [each.transaction_id for each in process.others.received[server]]
        assert len(set(ids)) == len(ids)
    assert set(process.others.received) == {A, B}
    await process.stop()


async def test_what_only_ties_branches_together_is_sent_though_no_client_sees_it(database: Database) -> None:
    """From memory, and once again to a server that was away."""
    process = await Process.open(database)
    room = await process.room_with(A, B)
    process.others.away.add(A)
    await process.engine.engine.write(room.room_id, lambda _head: [Draft(DUMMY, ALICE, {})], users=(ALICE,))
    await process.settle()
    assert process.others.bodies(B) == [DUMMY]
    process.others.away.clear()
    process.outbound.availability.spoke(A)
    await process.settle()
    assert process.others.bodies(A) == [DUMMY]
    await process.stop()


async def test_a_slow_server_gets_many_at_once_and_holds_up_nobody(database: Database) -> None:
    """Up to 50 events in one transaction."""
    process = await Process.open(database)
    room = await process.room_with(A, B)
    process.others.held[A] = Deferred()
    said = [str(n) for n in range(120)]
    await process.say(room, *said)
    await process.until(lambda: len(process.others.bodies(B)) == 120)
    assert process.others.bodies(A) == []
    process.others.held.pop(A).callback(None)
    await process.settle()
    assert process.others.bodies(A) == said
    assert max(len(each.pdus) for each in process.others.received[A]) == 50
    await process.stop()


async def test_a_server_hears_from_its_join_to_its_kick(database: Database) -> None:
    """Nothing from before, be it in the same commit; the kick itself; nothing from after. A stranger hears nothing."""
    process = await Process.open(database)
    room = await process.room_with(B)
    user = f"@u:{A}"
    await process.say(room, "before")
    saying = Deferred.fromCoroutine(process.say(room, "just before"))
    joining = Deferred.fromCoroutine(process.engine.join(room.room_id, user))
    await saying
    await joining
    await process.say(room, "within")
    kick = member(user, "leave", ALICE)
    await process.engine.engine.write(room.room_id, lambda _: [kick], users=(ALICE, user))
    await process.say(room, "after")
    await process.settle()
    assert process.others.bodies(A) == ["within", "m.room.member"]
    assert process.others.bodies(B) == [
        "before",
        "just before",
        "m.room.member",
        "within",
        "m.room.member",
        "after",
    ]
    await process.stop()


async def test_who_is_invited_or_banned_hears_of_it_though_they_are_not_there(database: Database) -> None:
    """The server of the member that the event is about."""
    process = await Process.open(database)
    room = await process.room_with(B)
    user = f"@u:{A}"
    for membership in ("invite", "ban"):
        draft = member(user, membership, ALICE)
        await process.engine.engine.write(room.room_id, lambda _, d=draft: [d], users=(ALICE, user))  # type: ignore[misc]
    await process.settle()
    memberships = [pdu["content"]["membership"] for t in process.others.received[A] for pdu in t.pdus]
    assert memberships == ["invite", "ban"]
    await process.stop()


async def test_an_own_room_costs_no_query(database: Database) -> None:
    """Nobody else is there: the feed goes on, and asks the database nothing."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.settle()
    asked: list[str] = []
    original = database.fetch

    async def counted(name: str, *args: object, **kwargs: object) -> object:
        asked.append(name)
        return await original(name, *args, **kwargs)  # type: ignore[arg-type]

    database.fetch = counted  # type: ignore[method-assign,assignment]
    await process.say(room, *map(str, range(10)))
    await process.settle()
    assert not [name for name in asked if name.startswith("outbound")]
    assert process.others.received == {}
    await process.stop()


async def test_what_another_process_writes_is_sent_too_and_once(database: Database) -> None:
    """Each server is served by one process; both write, and every event arrives once."""
    others = Others()
    one = await Process.open(database, others)
    two = await Process.open(database, others)
    servers = [f"s{n}.test" for n in range(20)]
    await one.settle()
    await one.renew()  # makes room for the second
    await two.until(lambda: len(two.outbound.sender._shards) == 32 == len(one.outbound.sender._shards))
    room = await one.engine.new_room()
    await one.engine.join(room.room_id, *(f"@u:{server}" for server in servers))
    await one.settle()
    await two.settle()
    others.received.clear()
    said = []
    for n in range(10):
        process = (one, two)[n % 2]
        said.append(f"{n}")
        await process.say(room, said[-1])
    await two.until(lambda: all(len(others.bodies(server)) == 10 for server in servers))
    assert {server: others.bodies(server) for server in servers} == dict.fromkeys(servers, said)
    await two.stop()
    await one.until(lambda: len(one.outbound.sender._shards) == 64)
    await one.say(room, "alone")
    await one.until(lambda: all(others.bodies(server)[-1] == "alone" for server in servers))
    await one.stop()


async def test_servers_that_are_being_sent_to_stay_where_they_are_if_others_can_go(
    database: Database,
) -> None:
    others = Others()
    one = await Process.open(database, others)
    room = await one.room_with(A, B)
    others.held[A] = others.held[B] = Deferred()
    await one.say(room, "hello")
    await one.until(lambda: others.in_flight[A] == 1 == others.in_flight[B])
    two = await Process.open(database, others)
    await one.renew()
    await two.until(lambda: len(two.outbound.sender._shards) == 32)
    assert one.outbound.sender.serves(A)
    assert one.outbound.sender.serves(B)
    others.held[A].callback(None)
    await one.stop()
    await two.stop()


async def test_servers_that_are_being_sent_to_change_process_as_soon_as_they_have_it(
    database: Database,
) -> None:
    """No time passes here: the next renewal of the leases is not waited for. What was on its way may come twice."""
    others = Others()
    one = await Process.open(database, others)
    servers = list({shard_of(name): name for name in (f"s{n}.test" for n in range(1000))}.values())
    assert len(servers) == SHARDS
    room = await one.room_with(*servers)
    others.held = {name: Deferred() for name in servers}
    await one.say(room, "before")
    await one.until(lambda: all(others.in_flight[name] == 1 for name in servers))
    two = await Process.open(database, others)
    await one.renew()
    await one.say(room, "after")
    moving = [name for name in servers if not one.outbound.sender.serves(name)]
    assert len(moving) == 32
    assert not two.outbound.sender.serves_any()
    first, *rest = moving
    others.held.pop(first).callback(None)
    await two.until(lambda: others.bodies(first)[-1] == "after")
    assert two.outbound.sender.serves(first)
    for name in [*rest, *servers]:
        if name in others.held:
            others.held.pop(name).callback(None)
    await two.until(lambda: all(others.bodies(name)[-1] == "after" for name in servers))
    assert all(list(dict.fromkeys(others.bodies(name))) == ["before", "after"] for name in servers)
    assert all(two.outbound.sender.serves(name) for name in moving)
    await one.stop()
    await two.stop()


async def test_nothing_is_lost_when_the_process_dies(database: Database) -> None:
    """What was on its way is sent again by whoever comes after; what had long arrived is not."""
    others = Others()
    first = await Process.open(database, others)
    room = await first.room_with(A, B)
    await first.say(room, "old")
    await first.settle()
    await first.renew()
    others.held[A] = Deferred()
    await first.say(room, "1", "2")
    await first.until(lambda: len(others.bodies(B)) == 3 and others.in_flight[A] == 1)
    first.die()
    others.away.add(A)
    others.held.pop(A).callback(None)
    others.received.clear()
    others.away.clear()
    second = await Process.open(database, others, alone=True)
    await second.settle()
    assert others.bodies(A) == ["1", "2"]
    assert "old" not in others.bodies(B)
    await second.stop()


async def test_a_clean_stop_leaves_nothing_to_send_twice(database: Database) -> None:
    """The next process starts from where this one was."""
    others = Others()
    first = await Process.open(database, others)
    room = await first.room_with(A)
    await first.say(room, "1", "2")
    await first.settle()
    await first.stop()
    second = await Process.open(database, others)
    await second.settle()
    await second.say(room, "3")
    await second.settle()
    assert others.bodies(A) == ["1", "2", "3"]
    await second.stop()


async def test_servers_of_a_room_whose_members_are_not_all_known_hear_of_it(database: Database) -> None:
    """Those that were told when the room was entered, live and after an outage; our own name among them is no one."""
    before = await Process.open(database)
    room = await before.engine.new_room()
    await before.stop()
    servers = ["localhost", A, B]
    await database.execute(
        "partial",
        "INSERT INTO partial_rooms (room, event_id, snapshot, destination, servers) VALUES (%s, '$j', 0, %s, %s)",
        (room.key, A, servers),
    )
    process = await Process.open(database)
    process.others.away.add(B)
    await process.say(room, "read from the rows")
    await process.settle()
    await process.say(room, "read from memory")
    await process.settle()
    assert process.others.bodies(A)[-2:] == ["read from the rows", "read from memory"]
    process.others.away.clear()
    await process.pass_time(75)
    await process.settle()
    assert process.others.bodies(B)[-2:] == ["read from the rows", "read from memory"]
    assert await process.neighbours.servers_of(ALICE) == {A, B}
    assert set(process.others.received) == {A, B}
    await process.stop()


async def test_a_member_event_about_nobody_holds_up_nothing(database: Database) -> None:
    """Room versions leave state keys free in places; what names no server is sent to none besides the room's."""
    process = await Process.open(database)
    room = await process.room_with(A)
    await process.say(room, "before")
    await process.settle()
    await database.execute(
        "odd", "UPDATE events SET type = 'm.room.member', state_key = 'nobody' WHERE room = %s", (room.key,)
    )
    process.die()
    second = await Process.open(database, process.others, alone=True)
    await second.settle()
    assert set(process.others.received) == {A}
    await second.stop()
