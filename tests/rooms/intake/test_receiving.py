# SPDX-License-Identifier: Apache-2.0
"""Events from outside into a live room."""

from __future__ import annotations

from homeserver.rooms.intake.incoming import Outcome
from storage.database import Database
from tests.rooms.intake.dag import ids
from tests.rooms.intake.intake_fixture import DAVE, ERIN, Process, ends


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
