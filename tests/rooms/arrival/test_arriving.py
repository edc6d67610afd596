# SPDX-License-Identifier: Apache-2.0
"""Coming into other servers' rooms with the whole state: what stands afterwards, and what is not believed."""

from __future__ import annotations

import sys
import time

import orjson
import pytest

from homeserver.rooms.arrival import ArrivalRefused
from homeserver.rooms.engine.snapshots import state_at
from storage.database import Database
from storage.state import StateStore
from tests.federation.servers import RemoteServer
from tests.rooms.arrival.arrival_fixture import Arrivals
from tests.rooms.arrival.remote_room import RemoteRoom, incoming
from tests.rooms.engine_fixture import ALICE, BOB, CAROL

VERSIONS = ["1", "3", "6", "10", "11", "12"]


@pytest.fixture
def hydra() -> RemoteServer:
    return RemoteServer("hydra.test")


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_join_makes_the_room_live(database: Database, hydra: RemoteServer, version: str) -> None:
    """The user is shown the room with its state, and can write there at once."""
    arrivals = await Arrivals.open(database)
    alice = arrivals.client(ALICE)
    await alice.sync()
    remote = RemoteRoom(hydra, version)
    users = remote.fill(3, hydra)
    remote.send("m.room.name", {"name": "The deep"}, "")
    remote.message()

    room = await arrivals.join(remote, ALICE)

    assert room.head.is_joined(ALICE)
    assert room.head.joined_count == 5
    await alice.sync()
    state = alice.shown(remote.id)
    assert state["m.room.name", ""]["content"] == {"name": "The deep"}
    assert {key[1] for key in state if key[0] == "m.room.member"} == {ALICE, hydra.user(), *users}
    assert [event["state_key"] for event in alice.timeline(remote.id)] == [ALICE]
    timeline = alice.room(remote.id)["timeline"]
    assert timeline["limited"], "what was before is to be had from other servers"
    assert timeline["prev_batch"]
    await arrivals.process.send(remote.id, ALICE, "here I am")
    await alice.sync()
    assert alice.bodies(remote.id) == ["here I am"]


async def test_snapshots_agree_with_the_state(database: Database, hydra: RemoteServer) -> None:
    """What the head says, what its snapshot says and what the answer said are one state."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    remote.fill(10, hydra)
    room = await arrivals.join(remote, ALICE)
    chain = await StateStore(database).chain(room.key, room.head.snapshot)
    head = {entry.stored.ordinal for entry in room.head.state.values()}
    head.update(member.ordinal for member in room.head.members.values())
    assert set(state_at(chain)) == head
    stored = await arrivals.process.engine.events.by_ordinals([(room.key, ordinal) for ordinal in head])
    assert {event.event_id for event in stored} == {b.event.event_id for b in remote.state.values()}


async def test_auth_chains_are_kept(database: Database, hydra: RemoteServer) -> None:
    """Each state event's bitmap holds exactly the events below it."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    remote.fill(3, hydra)
    await arrivals.join(remote, ALICE)
    stored = await arrivals.process.engine.events.by_ids(list(remote.events))
    ordinals = {event.event_id: event.ordinal for event in stored.values()}
    for built in remote.state.values():
        below = {ordinals[other.event.event_id] for other in remote.auth_chain([built])}
        bitmap = stored[built.event.event_id].auth_chain
        assert set(state_at_bytes(bitmap)) == below


def state_at_bytes(bitmap: bytes | None) -> list[int]:
    """The ordinals in a stored bitmap."""
    from pyroaring import BitMap

    return [] if bitmap is None else list(BitMap.deserialize(bitmap))


async def test_what_was_before_the_join_is_a_gap(database: Database, hydra: RemoteServer) -> None:
    """The events before the join are noted as not here."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    last = remote.message()
    room = await arrivals.join(remote, ALICE)
    rows = await database.fetch("gaps", "SELECT room, missing_event_id FROM event_gaps")
    assert rows == [(room.key, last.event.event_id)]


async def test_history_is_as_open_as_the_room(database: Database, hydra: RemoteServer) -> None:
    """The join carries the visibility that was in force."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra, visibility="joined")
    room = await arrivals.join(remote, ALICE)
    (join,) = await arrivals.process.engine.events.by_ordinals([(room.key, room.head.extremities[0][1])])
    assert (join.visibility, join.flags) == (3, 0)


async def test_coming_back_renews_the_room(database: Database, hydra: RemoteServer) -> None:
    """After a time outside, what changed meanwhile is there and what was is not."""
    arrivals = await Arrivals.open(database)
    alice = arrivals.client(ALICE)
    remote = RemoteRoom(hydra)
    gone, *_ = remote.fill(2, hydra)
    remote.send("m.room.topic", {"topic": "before"}, "")
    await arrivals.join(remote, ALICE)
    await alice.sync()
    remote.member(ALICE, "leave", by=arrivals.us)
    await arrivals.process.set_membership(remote.id, ALICE, "leave")
    await alice.sync()
    remote.member(gone, "leave", by=hydra)
    remote.send("m.room.topic", {"topic": "after"}, "")

    room = await arrivals.join(remote, ALICE)

    assert room.head.membership(gone) == "leave"
    assert room.head.content("m.room.topic") == {"topic": "after"}
    await alice.sync()
    assert alice.shown(remote.id)["m.room.topic", ""]["content"] == {"topic": "after"}
    assert alice.room(remote.id)["timeline"]["limited"]
    rows = await database.fetch(
        "intervals",
        "SELECT membership, until IS NULL FROM memberships WHERE user_id = %s ORDER BY since",
        (ALICE,),
    )
    assert rows == [("join", False), ("leave", False), ("join", True)]


@pytest.mark.parametrize("short", [False, True], ids=["whole", "short"])
async def test_who_left_stays_out_though_the_others_have_not_heard_of_it(
    database: Database, hydra: RemoteServer, short: bool
) -> None:
    """And comes in again by a join that is one; what the answer newly says of somebody counts."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra, join_rule="public")
    built = remote.event("m.room.member", {"membership": "join"}, ALICE, sender=ALICE, by=arrivals.us)
    await arrivals.enter(remote, incoming(built), remote.join_answer(built.event))
    remote.add(built)
    await arrivals.process.set_membership(remote.id, ALICE, "leave")
    remote.member(CAROL, "join", by=arrivals.us)
    before = list(remote.state.values())

    room = await arrivals.join(remote, BOB, omit_members=short)
    if short:
        await arrivals.fill(remote, before)
        room = await arrivals.arrival._loaded(remote.id)

    assert room.head.membership(ALICE) == "leave"
    assert room.head.is_joined(BOB) and room.head.is_joined(CAROL)
    head = {entry.stored.ordinal for entry in room.head.state.values()}
    head |= {m.ordinal for m in room.head.members.values()}
    assert set(state_at(await StateStore(database).chain(room.key, room.head.snapshot))) == head
    await arrivals.process.set_membership(remote.id, ALICE, "join")
    room = await arrivals.arrival._loaded(remote.id)
    assert room.head.is_joined(ALICE)


async def test_arriving_twice_is_arriving_once(database: Database, hydra: RemoteServer) -> None:
    """The same answer again changes nothing."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    event, answer = arrivals.asked(remote, ALICE)
    first = (await arrivals.enter(remote, event, answer)).head
    again = (await arrivals.enter(remote, event, answer)).head
    assert (again.snapshot, again.extremities) == (first.snapshot, first.extremities)


async def test_a_second_user_joins_the_live_room(database: Database, hydra: RemoteServer) -> None:
    """Who comes by an answer when another is in already is given to the room as an event of its own."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    await arrivals.join(remote, ALICE)
    event, answer = arrivals.asked(remote, BOB)
    await arrivals.enter(remote, event, answer)
    (received,) = arrivals.intake.received
    assert received.event.event_id == event.event.event_id
    assert received.state_before is not None


async def test_two_processes_arrive_at_once(database: Database, hydra: RemoteServer) -> None:
    """Whoever is second finds the room live, and nothing is stored twice."""
    from twisted.internet.defer import Deferred, gatherResults

    one, other = await Arrivals.open(database), await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    remote.fill(20, hydra)
    first, first_answer = one.asked(remote, ALICE)
    second, second_answer = other.asked(remote, BOB)
    await gatherResults(
        [
            Deferred.fromCoroutine(one.enter(remote, first, first_answer)),
            Deferred.fromCoroutine(other.enter(remote, second, second_answer)),
        ]
    )
    assert len(one.intake.received) + len(other.intake.received) == 1
    rows = await database.fetch("twice", "SELECT count(*) FROM rooms")
    assert rows == [(1,)]


# Lies


async def test_an_answer_for_another_room_is_refused(database: Database, hydra: RemoteServer) -> None:
    arrivals = await Arrivals.open(database)
    remote, other = RemoteRoom(hydra), RemoteRoom(hydra)
    event, answer = arrivals.asked(remote, ALICE)
    answer["state"][0] = next(iter(other.events.values())).event.pdu
    with pytest.raises(ArrivalRefused, match="another room"):
        await arrivals.enter(remote, event, answer)


async def test_a_room_id_that_is_not_the_create_hash_is_refused(
    database: Database, hydra: RemoteServer
) -> None:
    arrivals = await Arrivals.open(database)
    remote, other = RemoteRoom(hydra, "12"), RemoteRoom(hydra, "12", create={"type": "other"})
    event, answer = arrivals.asked(remote, ALICE)
    answer["state"][0] = next(iter(other.events.values())).event.pdu
    with pytest.raises(ArrivalRefused):
        await arrivals.enter(remote, event, answer)


async def test_another_version_than_was_said_is_refused(database: Database, hydra: RemoteServer) -> None:
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra, "10", create={"room_version": "9"})
    event, answer = arrivals.asked(remote, ALICE)
    with pytest.raises(ArrivalRefused, match="version"):
        await arrivals.enter(remote, event, answer)


async def test_a_state_without_a_create_event_is_refused(database: Database, hydra: RemoteServer) -> None:
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    event, answer = arrivals.asked(remote, ALICE)
    del answer["state"][0]
    with pytest.raises(ArrivalRefused, match=r"m\.room\.create"):
        await arrivals.enter(remote, event, answer)


async def test_an_incomplete_auth_chain_is_refused(database: Database, hydra: RemoteServer) -> None:
    """Power levels that cite what nobody has are none; nothing of the room is shown."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    first = remote.state["m.room.power_levels", ""].event.pdu
    remote.send("m.room.power_levels", {"users": {hydra.user(): 100}, "invite": 0}, "")
    event, answer = arrivals.asked(remote, ALICE)
    answer["auth_chain"] = [pdu for pdu in answer["auth_chain"] if pdu != first]
    with pytest.raises(ArrivalRefused, match="not complete"):
        await arrivals.enter(remote, event, answer)
    alice = arrivals.client(ALICE)
    await alice.sync()
    assert not alice.has(remote.id)


async def test_state_that_its_auth_events_do_not_allow_is_left_out(
    database: Database, hydra: RemoteServer
) -> None:
    """Somebody without power did not name the room, whatever a server says; and it is remembered as rejected."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    remote.fill(1, hydra)
    forged = remote.send("m.room.name", {"name": "mine"}, "", sender="@user0:hydra.test")
    room = await arrivals.join(remote, ALICE)
    assert room.head.state_event("m.room.name") is None
    stored = await arrivals.process.engine.events.by_ids([forged.event.event_id])
    assert stored[forged.event.event_id].flags == 5


async def test_state_that_stands_on_what_nobody_has_is_left_out(
    database: Database, hydra: RemoteServer
) -> None:
    """A server whose keys are lost takes its own events along, not the room."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    user = remote.fill(1, hydra)[0]
    lost = remote.member(user, "join", by=hydra).event.pdu
    remote.send("m.room.power_levels", {"users": {hydra.user(): 100, user: 50}}, "")
    remote.send("m.room.topic", {"topic": "x"}, "", sender=user)
    event, answer = arrivals.asked(remote, ALICE)
    answer["auth_chain"] = [pdu for pdu in answer["auth_chain"] if pdu != lost]
    answer["state"] = [pdu for pdu in answer["state"] if pdu != lost]
    room = await arrivals.enter(remote, event, answer)
    assert room.head.state_event("m.room.topic") is None
    assert room.head.is_joined(ALICE)


async def test_a_join_that_is_not_allowed_is_refused(database: Database, hydra: RemoteServer) -> None:
    """A room one was not invited to is not entered on a server's word."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra, join_rule="invite")
    event, answer = arrivals.asked(remote, ALICE)
    with pytest.raises(ArrivalRefused, match="not allowed"):
        await arrivals.enter(remote, event, answer)


async def test_another_beginning_than_before_is_refused(database: Database, hydra: RemoteServer) -> None:
    """A room does not begin twice: who signs a second create event for a room that was known makes another room."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    await arrivals.join(remote, ALICE)
    await arrivals.process.set_membership(remote.id, ALICE, "leave")
    for version, fault in (("11", r"another m\.room\.create"), ("10", "not of version 10")):
        twin = RemoteRoom(hydra, version, room_id=remote.id, create={"again": True})
        event, answer = arrivals.asked(twin, ALICE)
        with pytest.raises(ArrivalRefused, match=fault):
            await arrivals.enter(twin, event, answer)


async def test_a_room_told_by_other_rules_leaves_nothing_behind(
    database: Database, hydra: RemoteServer
) -> None:
    """Who says another version than the room's, with a create event of its own, has no events judged by that."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra, "10", join_rule="knock_restricted")
    other = RemoteServer("other.test")
    vouched = {"membership": "join", "join_authorised_via_users_server": hydra.user()}
    remote.send("m.room.member", vouched, "@fay:other.test", sender="@fay:other.test", by=other)
    remote.send("m.room.join_rules", {"join_rule": "public"}, "")
    lie = RemoteRoom(RemoteServer("thief.test"), "9", room_id=remote.id)
    event, answer = arrivals.asked(lie, ALICE)
    answer["auth_chain"] += [built.event.pdu for built in remote.events.values()]
    with pytest.raises(ArrivalRefused):
        await arrivals.enter(lie, event, answer)
    room = await arrivals.join(remote, ALICE)
    assert room.head.membership("@fay:other.test") == "join"


@pytest.mark.parametrize("stayed", [False, True])
async def test_invites_from_before_are_part_of_the_state(
    database: Database, hydra: RemoteServer, stayed: bool
) -> None:
    """Somebody else of ours who was invited before is, in the room's present state, what their membership says."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    if stayed:
        for user in (ALICE, BOB):
            remote.member(user, "invite", sender=hydra.user())
        await arrivals.join(remote, ALICE)
        for user in (ALICE, BOB):
            await arrivals.process.set_membership(remote.id, user, "leave")
            remote.member(user, "leave", by=arrivals.us)
    invite = remote.member(BOB, "invite", sender=hydra.user())
    assert await arrivals.out_of_band.invited(remote.version, incoming(invite), [])
    room = await arrivals.join(remote, ALICE)
    assert room.head.membership(BOB) == "invite"
    (current,) = (await arrivals.process.engine.events.current_state([room.key])).values()
    assert {stored.event_id for stored in current} == {b.event.event_id for b in remote.state.values()}


async def test_an_answer_that_counts_us_in_already(database: Database, hydra: RemoteServer) -> None:
    """The join is no part of the state before it."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    event, answer = arrivals.asked(remote, ALICE)
    answer["state"].append(event.event.pdu)
    room = await arrivals.enter(remote, event, answer)
    (stored,) = (await arrivals.process.engine.events.by_ids([event.event.event_id])).values()
    assert room.head.is_joined(ALICE)
    assert stored.replaces is None
    private = RemoteRoom(hydra, join_rule="invite")
    event, answer = arrivals.asked(private, ALICE)
    answer["state"].append(event.event.pdu)
    with pytest.raises(ArrivalRefused):
        await arrivals.enter(private, event, answer)


async def test_two_events_for_one_piece_of_state_are_refused(database: Database, hydra: RemoteServer) -> None:
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    old = remote.send("m.room.topic", {"topic": "old"}, "")
    remote.send("m.room.topic", {"topic": "new"}, "")
    event, answer = arrivals.asked(remote, ALICE)
    answer["state"].append(orjson.loads(old.json_bytes))
    with pytest.raises(ArrivalRefused, match="two events"):
        await arrivals.enter(remote, event, answer)


async def test_circles_of_citations_end(database: Database, hydra: RemoteServer) -> None:
    """Where servers choose event ids, events can cite each other in a circle: they are left out."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra, "1")
    event, answer = arrivals.asked(remote, ALICE)
    circle = [dict(pdu) for pdu in answer["state"] if pdu["type"] == "m.room.member"][:1]
    pdu = {**circle[0], "event_id": "$circle:hydra.test", "state_key": "@x:hydra.test"}
    pdu["auth_events"] = [["$circle:hydra.test", {"sha256": "x"}]]
    answer["state"].append(pdu)
    room = await arrivals.enter(remote, event, answer)
    assert "@x:hydra.test" not in room.head.members


async def test_a_large_room(
    database: Database, hydra: RemoteServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """2,000 members and 5,000 events of state are taken in."""
    arrivals = await Arrivals.open(database)
    remote = RemoteRoom(hydra)
    remote.fill(2000, hydra)
    for number in range(3000):
        remote.send("m.space.child", {"via": ["hydra.test"]}, f"!child{number}:hydra.test")
    event, answer = arrivals.asked(remote, ALICE)
    state, chain = remote.parsed(answer["state"]), remote.parsed(answer["auth_chain"])
    started = time.perf_counter()
    room = await arrivals.arrival.arrive(remote.id, remote.version, event, state, chain)
    with capsys.disabled():
        seconds = time.perf_counter() - started
        sys.stdout.write(f" arrived at {len(answer['state'])} pieces of state in {seconds:.2f} s ")
    assert room.head.joined_count == 2002
