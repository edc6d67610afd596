# SPDX-License-Identifier: Apache-2.0
"""Rooms in which nobody of ours speaks do not come apart."""

from __future__ import annotations

from twisted.internet.task import Clock, deferLater

from homeserver.rooms.engine import Room
from homeserver.rooms.intake.dummies import MOST_EXTREMITIES
from homeserver.rooms.intake.loose_ends import DELAY, PAUSE, LooseEnds
from storage.database import Database
from tests.reactor import reactor
from tests.rooms.engine_fixture import member
from tests.rooms.intake.dag import Dag
from tests.rooms.intake.intake_fixture import ALICE, DAVE, Process, ends


async def branched(process: Process, count: int = 45) -> tuple[Room, Dag]:
    """A room with so many ends."""
    room, dag = await process.room_with(DAVE)
    base = ends(room)
    await process.accept(room, *(dag.say(DAVE, f"{number}", prev=base) for number in range(count)))
    assert len(ends(room)) == count
    return room, dag


def watched(process: Process) -> tuple[Clock, LooseEnds]:
    clock = Clock()
    watch = LooseEnds(engine=process.engine.engine, cache=process.engine.cache, scheduler=clock)
    process.engine.stream.subscribe(watch)
    return clock, watch


async def settled(room: Room) -> None:
    """Wait until there are few ends."""
    while len(ends(room)) > MOST_EXTREMITIES:
        await deferLater(reactor, 0)


async def test_ends_are_tied_together_after_a_while(database: Database) -> None:
    process = await Process.open(database)
    clock, watch = watched(process)
    room, dag = await branched(process)
    clock.advance(DELAY - 1)
    assert len(ends(room)) == 45, "somebody may speak yet"
    clock.advance(1)
    await settled(room)
    base = ends(room)[:1]
    await process.accept(room, *(dag.say(DAVE, f"more {number}", prev=base) for number in range(15)))
    assert clock.getDelayedCalls() == [], "no room is looked at often"
    clock.advance(PAUSE)
    await process.accept(room, dag.say(DAVE, "again", prev=base))
    clock.advance(DELAY)
    await settled(room)
    await watch.stop()


async def test_what_is_merged_meanwhile_needs_nothing(database: Database) -> None:
    process = await Process.open(database)
    clock, watch = watched(process)
    room, _ = await branched(process, 15)
    await process.say(room, "hello")
    assert len(ends(room)) == 1
    newest = ends(room)
    clock.advance(DELAY)
    for _ in range(5):
        await deferLater(reactor, 0)
    assert ends(room) == newest
    await watch.stop()


async def test_where_nobody_of_ours_is_nothing_is_tried_again_soon(database: Database) -> None:
    process = await Process.open(database)
    clock, watch = watched(process)
    room, dag = await process.room_with(DAVE)
    await process.engine.engine.write(
        room.room_id,
        lambda _head: [member(ALICE, "leave")],
        users=(ALICE,),
    )
    await dag.learn(database, room)
    base = ends(room)
    await process.accept(room, *(dag.say(DAVE, f"{number}", prev=base) for number in range(15)))
    clock.advance(DELAY)
    for _ in range(5):
        await deferLater(reactor, 0)
    clock.advance(PAUSE)
    await process.accept(room, dag.say(DAVE, "again", prev=base))
    assert clock.getDelayedCalls() == []
    assert len(ends(room)) == 16
    await watch.stop()


async def test_stopping_leaves_nothing_behind(database: Database) -> None:
    process = await Process.open(database)
    clock, watch = watched(process)
    await branched(process, 15)
    await watch.stop()
    assert clock.getDelayedCalls() == []
