# SPDX-License-Identifier: Apache-2.0
"""Events from outside into a live room."""

from __future__ import annotations

import orjson
import pytest

from homeserver.errors import NotFound
from homeserver.protocol.event_auth import AuthError
from homeserver.protocol.events import Event
from homeserver.rooms.intake.dummies import send_dummy
from homeserver.rooms.intake.incoming import Incoming, Outcome
from storage.database import Database
from storage.events import HIDDEN, REJECTED
from storage.room_history import RoomHistoryStore
from tests.rooms.engine_fixture import member, message
from tests.rooms.intake.dag import MEMBER, ids
from tests.rooms.intake.intake_fixture import ALICE, DAVE, ERIN, FRED, Process, ends


async def test_a_line_of_events(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    hello = dag.say(DAVE, "hello", prev=ends(room))
    topic = dag.topic(DAVE, "news", prev=ids(hello))
    await process.accept(room, hello, topic)
    assert ends(room) == ids(topic)
    assert [entry.stored.event_id for entry in room.recent][-2:] == ids(hello, topic)
    await process.check(room, dag)
    await process.check_states(room, dag)
    (again,) = await process.receive(room, hello)
    assert again.outcome is Outcome.KNOWN


async def test_a_fork(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN)
    base = ends(room)
    left = dag.topic(DAVE, "left", prev=base)
    right = dag.topic(ERIN, "right", prev=base)
    await process.accept(room, left)
    await process.accept(room, right)
    assert set(ends(room)) == set(ids(left, right))
    await process.check(room, dag)
    await process.say(room, "merged")
    await dag.learn(database, room)
    assert len(ends(room)) == 1
    await process.check(room, dag)
    await process.check_states(room, dag)


async def test_what_is_missing_is_named(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    first = dag.say(DAVE, "first", prev=ends(room))
    second = dag.say(DAVE, "second", prev=ids(first))
    name = dag.write(DAVE, MEMBER, {"membership": "join", "displayname": "Dave"}, DAVE, prev=ids(second))
    third = dag.say(DAVE, "third", prev=ids(name))
    verdicts = await process.receive(room, second, third)
    assert [(v.outcome, v.missing_prev, v.missing_auth) for v in verdicts] == [
        (Outcome.MISSING, (first.event.event_id,), ()),
        (Outcome.MISSING, (name.event.event_id,), (name.event.event_id,)),
    ]
    assert await process.intake.standing(ids(second, third)) == {}
    await process.check(room, dag)


async def test_rejected_by_the_state_before(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    before = ends(room)
    stranger = dag.say(ERIN, "I was never here", prev=before)
    (verdict,) = await process.receive(room, stranger)
    assert verdict.outcome is Outcome.REJECTED and "not in room" in verdict.reason
    assert await process.intake.standing(ids(stranger)) == {stranger.event.event_id: REJECTED}
    assert ends(room) == before
    (again,) = await process.receive(room, stranger)
    assert again.outcome is Outcome.KNOWN
    # What builds on it stands, on the state before it.
    child = dag.say(DAVE, "over it", prev=ids(stranger))
    await process.accept(room, child)
    assert ends(room) == ids(child)
    await process.check(room, dag)


async def test_a_rejected_state_event_is_no_state(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN)
    powerless = dag.write(ERIN, "m.room.power_levels", {"users": {ERIN: 100}}, "", prev=ends(room))
    (verdict,) = await process.receive(room, powerless)
    assert verdict.outcome is Outcome.REJECTED
    citing = dag.write(
        ERIN,
        "m.room.name",
        {"name": "mine"},
        "",
        prev=ids(powerless),
        auth=[
            *(
                e
                for k, e in dag.before(powerless.event).items()
                if k in ((MEMBER, ERIN), ("m.room.create", ""))
            ),
            powerless.event.event_id,
        ],
    )
    (verdict,) = await process.receive(room, citing)
    assert verdict.outcome is Outcome.REJECTED and "rejected" in verdict.reason
    await process.check(room, dag)
    await process.check_states(room, dag)


async def test_what_cannot_be_stored_at_all(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    other, elsewhere = await process.room_with(DAVE)
    foreign = elsewhere.say(DAVE, "of another room", prev=ends(other))
    (verdict,) = await process.receive(room, foreign)
    assert verdict.outcome is Outcome.REJECTED and "another room" in verdict.reason
    odd = dag.write(DAVE, "m.room.message", {}, prev=ends(room))
    pdu = {**odd.event.pdu, "type": "a\0b"}
    (verdict,) = await process.receive(room, Incoming(Event.from_pdu(pdu, dag.version), odd.json))
    assert verdict.outcome is Outcome.REJECTED and "NUL" in verdict.reason
    rootless = {**odd.event.pdu, "prev_events": []}
    (verdict,) = await process.receive(room, Incoming(Event.from_pdu(rootless, dag.version), odd.json))
    assert verdict.outcome is Outcome.REJECTED and "beginning" in verdict.reason
    create = {
        **odd.event.pdu,
        "type": "m.room.create",
        "state_key": "",
        "prev_events": [],
        "auth_events": [],
        "content": {"room_version": "11"},
    }
    (verdict,) = await process.receive(room, Incoming(Event.from_pdu(create, dag.version), odd.json))
    assert verdict.outcome is Outcome.REJECTED and "another m.room.create" in verdict.reason
    with pytest.raises(NotFound):
        await process.intake.receive("!nowhere:one.example", [foreign])


async def test_an_id_of_another_room(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, version="1")
    other, elsewhere = await process.room_with(DAVE, version="1")
    said = elsewhere.say(DAVE, "there", prev=ends(other))
    await process.accept(other, said)
    pdu = {**dag.say(DAVE, "here", prev=ends(room)).event.pdu, "event_id": said.event.event_id}
    (verdict,) = await process.receive(room, Incoming(Event.from_pdu(pdu, dag.version), "{}"))
    assert verdict.outcome is Outcome.REJECTED and "another room" in verdict.reason


async def test_soft_failure(database: Database) -> None:
    """Who was banned writes as if from before the ban: stored, shown to nobody, and nothing of ours builds on it."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN)
    before = ends(room)
    await process.engine.engine.write(
        room.room_id, lambda _head: [member(ERIN, "ban", ALICE)], users=(ALICE, ERIN)
    )
    await dag.learn(database, room)
    present = ends(room)
    evasion = dag.topic(ERIN, "still here", prev=before)
    (verdict,) = await process.receive(room, evasion)
    assert verdict.outcome is Outcome.SOFT_FAILED
    assert ends(room) == present
    assert evasion.event.event_id not in {entry.stored.event_id for entry in room.recent}
    timeline = (await process.engine.events.timelines([(room.key, 0, 1 << 60)], 100))[room.key]
    assert evasion.event.event_id not in {stored.event_id for stored in timeline}
    # What others build on it counts with the state after it.
    child = dag.say(DAVE, "I heard that", prev=ids(evasion))
    await process.accept(room, child)
    assert set(ends(room)) == {*present, child.event.event_id}
    await process.check(room, dag)
    await process.check_states(room, dag)


async def test_an_extremity_below_what_does_not_stand(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    stranger = dag.say(ERIN, "no", prev=ends(room))
    worse = dag.say(ERIN, "no again", prev=ids(stranger))
    await process.receive(room, stranger, worse)
    child = dag.say(DAVE, "on both", prev=ids(worse))
    await process.accept(room, child)
    assert ends(room) == ids(child)


async def test_with_the_state_given(database: Database) -> None:
    """An event whose past cannot be had, with its state: it stands, and the gap before it is remembered."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN)
    lost = dag.say(DAVE, "never arrives", prev=ends(room))
    later = dag.topic(DAVE, "later", prev=ids(lost))
    given = Incoming(later.event, later.json, list(dag.before(later.event).values()))
    (verdict,) = await process.receive(room, given)
    assert verdict.outcome is Outcome.ACCEPTED
    assert len(ends(room)) == 2
    gaps = "SELECT missing_event_id FROM event_gaps"
    assert await database.fetch("test", gaps) == [(lost.event.event_id,)]
    newest = await RoomHistoryStore(database).newest_gaps([(room.key, 0, 1 << 60)])
    assert newest == {room.key: room.head.position}
    await process.check(room, dag)
    # It comes after all, and is no end of the room, since what builds on it is there.
    await process.accept(room, lost)
    assert await database.fetch("test", gaps) == []
    assert ends(room) == ids(later)
    await process.check(room, dag)
    await process.check_states(room, dag)


async def test_a_given_state_that_is_not_there(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    lost = dag.topic(DAVE, "never arrives", prev=ends(room))
    later = dag.say(DAVE, "later", prev=ids(lost))
    given = Incoming(later.event, later.json, list(dag.before(later.event).values()))
    (verdict,) = await process.receive(room, given)
    assert verdict.outcome is Outcome.MISSING and list(verdict.missing_auth) == ids(lost)
    stateless = Incoming(later.event, later.json, [])
    (verdict,) = await process.receive(room, stateless)
    assert verdict.outcome is Outcome.REJECTED


async def test_members_follow_the_resolved_state(database: Database) -> None:
    """A resolution changes members without a member event: their intervals change at what brought it about."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN)
    base = ends(room)
    joined = dag.join(FRED, prev=base)
    await process.accept(room, joined)
    assert room.head.hosts["three.example"] == 1
    ban = dag.write(DAVE, MEMBER, {"membership": "ban"}, FRED, prev=base)
    await process.accept(room, ban)
    await process.check(room, dag)
    assert room.head.membership(FRED) == "ban"
    assert "three.example" not in room.head.hosts
    rows = await database.fetch(
        "test",
        "SELECT membership, since, until FROM memberships WHERE room = %s AND user_id = %s ORDER BY since",
        (room.key, FRED),
    )
    at = room.head.position
    assert [tuple(row) for row in rows] == [("join", at - 1, at), ("ban", at, None)]


async def test_outbound(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    joined = dag.join(ERIN, prev=ends(room))
    await process.accept(room, joined, outbound=True)
    said = await process.say(room, "to all")
    await dag.learn(database, room)
    heard = dag.say(DAVE, "from there", prev=[said])
    await process.accept(room, heard)
    found = await process.engine.events.by_ids([*ids(joined, heard), said])
    assert {event_id: stored.outbound for event_id, stored in found.items()} == {
        joined.event.event_id: True,
        said: True,
        heard.event.event_id: False,
    }
    alone = await process.engine.new_room()
    quiet = await process.say(alone, "to nobody else")
    assert not (await process.engine.events.by_ids([quiet]))[quiet].outbound


async def test_an_invite_of_ours(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    bob = "@bob:localhost"
    invite = dag.write(DAVE, MEMBER, {"membership": "invite"}, bob, prev=ends(room))
    await process.accept(room, invite)
    standing = (await process.engine.user_rooms.of(bob))[room.key]
    assert standing.membership == "invite" and standing.sender == DAVE
    assert standing.stripped_state is not None
    shown = {(e["type"], e["state_key"]) for e in orjson.loads(standing.stripped_state)}
    assert shown >= {("m.room.create", ""), ("m.room.join_rules", ""), (MEMBER, DAVE)}


async def test_prepared_events_are_not_written(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    head = room.head
    erin = "@erin:two.example"
    prepared = await process.intake.prepare(
        room.room_id, lambda _head: [member(erin, "invite", ALICE)], (ALICE,)
    )
    assert prepared.event.content == {"membership": "invite"}
    assert list(prepared.event.prev_event_ids) == ends(room)
    assert room.head is head
    dag.add(prepared.event, prepared.json)
    await process.accept(room, Incoming(prepared.event, prepared.json), outbound=True)
    assert room.head.membership(erin) == "invite"
    with pytest.raises(AuthError):
        await process.intake.prepare(room.room_id, lambda _head: [message(erin, "not yet")], (erin,))


async def test_dummy_events_tie_ends_together(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    base = ends(room)
    branches = [dag.say(DAVE, f"{number}", prev=base) for number in range(25)]
    await process.accept(room, *branches)
    assert len(ends(room)) == 25
    assert await send_dummy(process.engine.engine, room.room_id)
    assert len(ends(room)) == 6
    assert not await send_dummy(process.engine.engine, room.room_id)
    stored = (await process.engine.events.by_ids(ends(room)[-1:]))[ends(room)[-1]]
    assert stored.flags == HIDDEN and stored.sender == ALICE
    await process.say(room, "the rest")
    assert len(ends(room)) == 1
    await dag.learn(database, room)
    await process.check(room, dag)
