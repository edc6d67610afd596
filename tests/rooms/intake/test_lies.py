# SPDX-License-Identifier: Apache-2.0
"""What servers say that is not so, or was never looked at, and what they leave out."""

from __future__ import annotations

import pytest

from homeserver.events import RoomEvent
from homeserver.rooms.arrival.outliers import outlier_row
from homeserver.rooms.intake.incoming import Incoming, Outcome
from storage.arrivals import ArrivalStore
from storage.database import Database
from storage.events import OUTLIER, REJECTED, TimelinePlace
from storage.inbound_pdus import InboundPduStore
from tests.rooms.intake.dag import CREATE, MEMBER, ids
from tests.rooms.intake.intake_fixture import DAVE, ERIN, FRED, Process, ends


async def test_an_invite_that_nobody_judged_is_no_authority(database: Database) -> None:
    """An invite that came while this server was not in the room stands for nothing until it was judged."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    invite = dag.write(FRED, MEMBER, {"membership": "invite"}, "@bob:localhost", prev=ends(room))
    store = ArrivalStore(database)
    ordinal = await store.reserve_ordinals(room.key, 1)
    await store.store(
        room.key,
        [outlier_row(invite, ordinal, room_id=room.room_id, visibility=1, flags=OUTLIER, auth_chain=None)],
    )
    process.engine.cache.mark_stale(room.room_id)
    (stored,) = await process.engine.events.by_ordinals([(room.key, ordinal)])
    process.engine.engine.member_events.put(RoomEvent(stored, room.room_id, room.head.version))
    known = InboundPduStore(database)
    assert await known.known(room.room_id, ids(invite)) == {}
    state = dag.resolved(ends(room))
    auth = [state[key] for key in (CREATE, ("m.room.power_levels", ""), (MEMBER, DAVE))]
    leave = {"membership": "leave"}
    kick = dag.write(DAVE, MEMBER, leave, "@bob:localhost", prev=ends(room), auth=[*auth, *ids(invite)])
    (verdict,) = await process.receive(room, kick)
    assert verdict.outcome is Outcome.MISSING and list(verdict.missing_auth) == ids(invite)
    await process.intake.receive_outliers(room.room_id, room.head.version, [invite])
    assert (await process.intake.standing(ids(invite)))[invite.event.event_id] == OUTLIER | REJECTED
    assert (await known.known(room.room_id, ids(invite))).keys() == {invite.event.event_id}
    (verdict,) = await process.receive(room, kick)
    assert verdict.outcome is Outcome.REJECTED


async def test_the_create_event_once_more(database: Database) -> None:
    """Of a room that was joined it is known, though not its place."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    create = dag.resolved(ends(room))[CREATE]
    await database.execute(
        "test",
        "UPDATE events SET flags = 4, position = 0, snapshot = NULL, current_snapshot = NULL WHERE event_id = %s",
        (create,),
    )
    joined = await Process.open(database)
    (verdict,) = await joined.intake.receive(room.room_id, [dag.incoming[create]])
    assert verdict.outcome is Outcome.KNOWN


async def test_below_what_does_not_stand_lies_another_room(database: Database) -> None:
    """An event that does not stand may name anything as what was before it."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    other, old = await process.room_with(DAVE, version="1")
    first = old.topic(FRED, "not allowed", prev=ends(other))
    second = old.topic(FRED, "nor this", prev=ids(first))
    assert {v.outcome for v in await process.receive(other, first, second)} == {Outcome.REJECTED}
    state = dag.resolved(ends(room))
    dag.events[second.event.event_id] = second.event
    dag.after[second.event.event_id] = state
    fallen = dag.topic(FRED, "nor here", prev=ids(second))
    given = Incoming(fallen.event, fallen.json, list(state.values()))
    (verdict,) = await process.receive(room, given)
    assert verdict.outcome is Outcome.REJECTED
    await process.accept(room, dag.say(DAVE, "on it", prev=ids(fallen)))


@pytest.mark.parametrize("outlier", [False, True])
async def test_nothing_is_put_before_what_it_builds_on(database: Database, outlier: bool) -> None:
    """Who reads back from the room's end meets everything, whatever depth an event claims to be at."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    first = await process.say(room, "first")
    await dag.learn(database, room)
    low = dag.write(DAVE, "m.room.topic", {"topic": "low"}, "", prev=[first], depth=1)
    if outlier:
        await process.intake.receive_outliers(room.room_id, room.head.version, [low])
    await process.accept(room, low)
    last = await process.say(room, "last")
    end = TimelinePlace(room.head.depth, room.head.position + 1)
    page = await process.engine.events.page(room.key, end, backwards=True, limit=3)
    assert [stored.event_id for stored in page] == [last, low.event.event_id, first]


@pytest.mark.parametrize("version", ["1", "11", "12"])
@pytest.mark.parametrize("between", [False, True])
async def test_a_given_state_hides_nothing_that_comes_late(
    database: Database, version: str, between: bool
) -> None:
    """Who is the first to send, on top of events that are not here yet, an event with a state that leaves out what
    these did, does not keep that from the room."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN, version=version)
    base = dag.resolved(ends(room))
    topic = dag.topic(DAVE, "the truth", prev=ends(room))
    late = [topic, dag.say(DAVE, "hello", prev=ids(topic))] if between else [topic]
    lie = dag.say(ERIN, "nothing happened", prev=ids(late[-1]))
    await process.accept(room, Incoming(lie.event, lie.json, list(base.values())))
    for incoming in late:
        await process.accept(room, incoming)
    assert (await process.current(room))["m.room.topic", ""] == topic.event.event_id
    await process.check(room, dag)
    await process.accept(room, dag.say(DAVE, "on top", prev=ids(lie)))
    assert (await process.current(room))["m.room.topic", ""] == topic.event.event_id
    await process.check(room, dag)
