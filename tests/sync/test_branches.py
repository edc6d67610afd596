# SPDX-License-Identifier: Apache-2.0
"""What clients are told of rooms whose events come on branches, late, or without what was before them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from homeserver.rooms.engine import Room
from homeserver.rooms.intake.incoming import Incoming
from homeserver.sync.request import StateAfter
from storage.database import Database
from tests.rooms.engine_fixture import ALICE
from tests.rooms.intake.dag import MEMBER, Dag, ids
from tests.rooms.intake.intake_fixture import DAVE, ERIN, FRED, ends
from tests.rooms.intake.intake_fixture import Process as Intake
from tests.sync.sync_fixture import Client, Process

CLASSIC = None
AFTER: StateAfter = "state_after"
BOTH = pytest.mark.parametrize("state_after", [CLASSIC, AFTER])


class Known:
    """The state as a client believes it to be, played response by response."""

    def __init__(self, client: Client, room: Room) -> None:
        self.client = client
        self.room = room
        self.state: dict[tuple[str, str], str] = {}

    async def sync(self) -> None:
        await self.client.sync()
        if not self.client.has(self.room.room_id):
            return
        for key, event in self.client.state(self.room.room_id).items():
            self.state[key] = event["event_id"]
        if self.client.state_after is None:
            for event in self.client.timeline(self.room.room_id):
                if "state_key" in event:
                    self.state[event["type"], event["state_key"]] = event["event_id"]

    def check(self, expected: Mapping[tuple[str, str], str]) -> None:
        assert self.state == dict(expected)


async def opened(database: Database, *users: str) -> tuple[Process, Intake, Room, Dag]:
    intake = await Intake.open(database)
    process = Process.on(intake.engine)
    room, dag = await intake.room_with(*users)
    return process, intake, room, dag


@BOTH
async def test_state_that_lost(database: Database, state_after: StateAfter | None) -> None:
    """A topic that another branch's beats is not the room's, although it comes last."""
    process, intake, room, dag = await opened(database, DAVE, ERIN)
    known = Known(process.client(state_after=state_after), room)
    await known.sync()
    base = ends(room)
    one = dag.topic(DAVE, "one", prev=base)
    two = dag.topic(ERIN, "two", prev=base)
    winner = dag.resolved(ids(one, two))["m.room.topic", ""]
    first, last = (one, two) if winner == one.event.event_id else (two, one)
    await intake.accept(room, first)
    await known.sync()
    known.check(await intake.current(room))
    await intake.accept(room, last)
    await known.sync()
    known.check(await intake.current(room))
    assert known.state["m.room.topic", ""] == first.event.event_id


@BOTH
@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize("stepwise", [True, False])
async def test_a_resolution_changes_more_than_its_event(
    database: Database, state_after: StateAfter | None, initial: bool, stepwise: bool
) -> None:
    """A ban on one branch undoes, on the other, what the banned did there."""
    process, intake, room, dag = await opened(database, DAVE, ERIN)
    known = Known(process.client(state_after=state_after), room)
    if not initial:
        await known.sync()
    base = ends(room)
    name = dag.write(ERIN, "m.room.name", {"name": "Erin's"}, "", prev=base)
    topic = dag.topic(ERIN, "Erin's", prev=ids(name))
    ban = dag.write(ALICE, MEMBER, {"membership": "ban"}, ERIN, prev=base)
    said = dag.say(DAVE, "and now", prev=ids(ban))
    for incoming in (name, topic, ban, said):
        await intake.accept(room, incoming)
        if stepwise:
            await known.sync()
            known.check(_present(known, await intake.current(room)))
    await known.sync()
    known.check(_present(known, await intake.current(room)))
    assert room.head.membership(ERIN) == "ban"


def _present(known: Known, current: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    """A sync cannot say that a piece of the state is no more: those a client keeps."""
    return {**{key: value for key, value in known.state.items() if key not in current}, **current}


@BOTH
async def test_a_gap(database: Database, state_after: StateAfter | None) -> None:
    """A timeline does not go on across what is missing, and the state there is told."""
    process, intake, room, dag = await opened(database, DAVE, ERIN)
    known = Known(process.client(state_after=state_after), room)
    await known.sync()
    said = dag.say(DAVE, "before", prev=ends(room))
    lost = dag.say(DAVE, "lost", prev=ids(said))
    joined = dag.join(FRED, prev=ids(lost))
    late = dag.say(FRED, "late", prev=ids(joined))
    after = dag.say(FRED, "after", prev=ids(late))
    await intake.intake.receive_outliers(room.room_id, dag.version, [joined])
    given = Incoming(late.event, late.json, list(dag.before(late.event).values()))
    await intake.accept(room, said, given, after)
    await known.sync()
    assert known.client.bodies(room.room_id) == ["late", "after"]
    assert known.client.room(room.room_id)["timeline"]["limited"]
    known.check(await intake.current(room))
    await intake.say(room, "and on")
    await known.sync()
    assert known.client.bodies(room.room_id) == ["and on"]
    assert not known.client.room(room.room_id)["timeline"]["limited"]
    known.check(await intake.current(room))


async def test_what_is_not_shown(database: Database) -> None:
    """Neither soft-failed events, rejected ones, outliers, dummies nor history reach a timeline."""
    process, intake, room, dag = await opened(database, DAVE, ERIN)
    client = process.client()
    await client.sync()
    base = ends(room)
    await process.set_membership(room.room_id, ERIN, "ban", ALICE)
    await dag.learn(database, room)
    soft = dag.say(ERIN, "soft", prev=base)
    bad = dag.say(FRED, "rejected", prev=ends(room))
    dummy = dag.write(DAVE, "org.matrix.dummy_event", {}, prev=ends(room))
    fine = dag.say(DAVE, "fine", prev=ids(dummy))
    await intake.receive(room, soft, bad, dummy, fine)
    old = dag.say(DAVE, "old", prev=base)
    await intake.intake.receive_history(room.room_id, [old])
    await client.sync()
    assert client.bodies(room.room_id) == ["fine"]
    assert [event["type"] for event in client.timeline(room.room_id)] == [MEMBER, "m.room.message"]
    other = Process.on((await Intake.open(database)).engine).client(device_id="OTHER")
    await other.sync()
    assert other.bodies(room.room_id) == ["fine"]
