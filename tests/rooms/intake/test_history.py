# SPDX-License-Identifier: Apache-2.0
"""Events of the past, and events whose place in the room is not known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from homeserver.rooms.engine import Room
from homeserver.rooms.intake.incoming import Incoming, Outcome
from storage.database import Database
from storage.events import OUTLIER, REJECTED, TimelinePlace
from storage.received import ReceivedStore
from storage.rooms import LoadedRoom, RoomStore
from tests.rooms.intake.dag import Dag, ids
from tests.rooms.intake.intake_fixture import DAVE, ERIN, FRED, Process, ends


async def gapped(process: Process, messages: int) -> tuple[Room, Dag, list[Incoming], Incoming]:
    """A room that has an event without the line of events before it, which is returned oldest first."""
    room, dag = await process.room_with(DAVE, ERIN)
    line: list[Incoming] = []
    prev = ends(room)
    for number in range(messages):
        line.append(dag.say(DAVE, f"{number}", prev=prev))
        prev = ids(line[-1])
    late = dag.say(DAVE, "late", prev=prev)
    given = Incoming(late.event, late.json, list(dag.before(late.event).values()))
    await process.accept(room, given)
    return room, dag, line, late


async def gaps(process: Process, room: Room) -> list[str]:
    rows = await process.engine.database.fetch(
        "test", "SELECT missing_event_id FROM event_gaps WHERE room = %s", (room.key,)
    )
    return [row[0] for row in rows]


async def backwards(process: Process, room: Room) -> list[str]:
    page = await process.engine.events.page(room.key, TimelinePlace(1 << 40, 0), backwards=True, limit=1000)
    return [stored.event_id for stored in page]


async def test_from_the_newest_downwards(database: Database) -> None:
    """Messages carry the state back from what follows them; each portion goes below the one before."""
    process = await Process.open(database)
    room, dag, line, late = await gapped(process, 6)
    present, head = ends(room), room.head
    assert await gaps(process, room) == ids(line[5])
    verdicts = await process.intake.receive_history(room.room_id, line[:2:-1])
    assert {v.outcome for v in verdicts} == {Outcome.ACCEPTED}
    assert await gaps(process, room) == ids(line[2])
    verdicts = await process.intake.receive_history(room.room_id, line[:3])
    assert {v.outcome for v in verdicts} == {Outcome.ACCEPTED}
    assert await gaps(process, room) == []
    assert ends(room) == present and room.head.snapshot == head.snapshot
    found = await process.engine.events.by_ids(ids(*line))
    positions = [found[event_id].position for event_id in ids(*line)]
    assert positions == sorted(positions) and positions[-1] < 0
    assert (await backwards(process, room))[:7] == [*ids(late), *reversed(ids(*line))]
    await process.check(room, dag)
    await process.check_states(room, dag)
    await process.say(room, "and on")
    (again,) = await process.intake.receive_history(room.room_id, line[:1])
    assert again.outcome is Outcome.KNOWN


async def test_state_in_the_past(database: Database) -> None:
    """A state event of the past moves nothing of the present, but what follows it there stands on it."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN)
    topic = dag.topic(DAVE, "old", prev=ends(room))
    joined = dag.join(FRED, prev=ids(topic))
    said = dag.say(FRED, "hello", prev=ids(joined))
    newer = dag.topic(DAVE, "new", prev=ids(said))
    late = dag.say(DAVE, "late", prev=ids(newer))
    state = list(dag.before(late.event).values())
    outliers = [joined, newer]
    verdicts = await process.intake.receive_outliers(room.room_id, dag.version, outliers)
    assert [v.outcome for v in verdicts] == [Outcome.ACCEPTED] * 2
    assert set((await process.intake.standing(ids(*outliers))).values()) == {OUTLIER}
    await process.accept(room, Incoming(late.event, late.json, state))
    assert room.head.text("m.room.topic", "topic") == "new"
    assert room.head.is_joined(FRED)
    before = await process.current(room)
    verdicts = await process.intake.receive_history(room.room_id, [newer, said, joined, topic])
    assert {v.outcome for v in verdicts} == {Outcome.ACCEPTED}, verdicts
    assert await process.current(room) == before
    await process.check(room, dag)
    await process.check_states(room, dag)
    assert await gaps(process, room) == []
    order = await backwards(process, room)
    assert order[:5] == ids(late, newer, said, joined, topic)


async def test_history_without_its_state(database: Database) -> None:
    process = await Process.open(database)
    room, dag, line, _ = await gapped(process, 3)
    topic = dag.topic(DAVE, "side", prev=ids(line[0]))
    after = dag.say(DAVE, "after it", prev=ids(topic))
    (verdict,) = await process.intake.receive_history(room.room_id, [after])
    assert verdict.outcome is Outcome.MISSING and list(verdict.missing_prev) == ids(topic)
    given = Incoming(after.event, after.json, list(dag.before(dag.events[ids(topic)[0]]).values()))
    (verdict,) = await process.intake.receive_history(room.room_id, [given])
    assert verdict.outcome is Outcome.ACCEPTED
    assert set(await gaps(process, room)) == set(ids(topic, line[2]))


async def test_history_is_judged(database: Database) -> None:
    process = await Process.open(database)
    room, dag, line, _ = await gapped(process, 2)
    stranger = dag.say(FRED, "not in here", prev=ids(line[0]))
    verdicts = await process.intake.receive_history(room.room_id, [*line, stranger])
    assert [v.outcome for v in verdicts] == [Outcome.ACCEPTED, Outcome.ACCEPTED, Outcome.REJECTED]
    assert (await process.intake.standing(ids(stranger)))[stranger.event.event_id] == REJECTED
    assert stranger.event.event_id not in await backwards(process, room)


async def test_relations_and_redactions_of_the_past(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    said = dag.say(DAVE, "secret", prev=ends(room))
    edit = {
        "body": "* x",
        "msgtype": "m.text",
        "m.new_content": {"body": "x", "msgtype": "m.text"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": said.event.event_id},
    }
    edited = dag.write(DAVE, "m.room.message", edit, prev=ids(said))
    late = dag.write(DAVE, "m.room.redaction", {}, prev=ids(edited), redacts=said.event.event_id)
    given = Incoming(late.event, late.json, list(dag.before(late.event).values()))
    await process.accept(room, given)
    assert len(await database.fetch("test", "SELECT 1 FROM waiting_redactions")) == 1
    verdicts = await process.intake.receive_history(room.room_id, [edited, said])
    assert {v.outcome for v in verdicts} == {Outcome.ACCEPTED}
    stored = (await process.engine.events.by_ids(ids(said)))[said.event.event_id]
    assert stored.redacted_by == late.event.event_id and "secret" not in stored.pdu
    assert await database.fetch("test", "SELECT 1 FROM waiting_redactions") == []
    rows = await database.fetch("test", "SELECT relates_to, position FROM event_relations")
    found = await process.engine.events.by_ids(ids(edited))
    assert rows == [(said.event.event_id, found[edited.event.event_id].position)]


async def test_an_outlier_gets_its_place(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    topic = dag.topic(DAVE, "first an outlier", prev=ends(room))
    (verdict,) = await process.intake.receive_outliers(room.room_id, dag.version, [topic])
    assert verdict.outcome is Outcome.ACCEPTED
    assert room.head.text("m.room.topic", "topic") is None
    said = dag.say(DAVE, "on it", prev=ids(topic))
    (verdict,) = await process.receive(room, said)
    assert verdict.outcome is Outcome.MISSING and list(verdict.missing_prev) == ids(topic)
    await process.accept(room, topic, said)
    assert room.head.text("m.room.topic", "topic") == "first an outlier"
    found = await process.engine.events.by_ids(ids(topic, said))
    first, second = (found[event_id] for event_id in ids(topic, said))
    assert first.flags == 0 and first.position == second.position - 1 > 0
    await process.check(room, dag)
    await process.check_states(room, dag)


async def test_outliers_that_do_not_stand(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    bad = dag.write(ERIN, "m.room.power_levels", {"users": {ERIN: 100}}, "", prev=ends(room))
    (verdict,) = await process.intake.receive_outliers(room.room_id, dag.version, [bad])
    assert verdict.outcome is Outcome.REJECTED
    (verdict,) = await process.receive(room, bad)
    assert verdict.outcome is Outcome.REJECTED
    child = dag.say(DAVE, "over it", prev=ids(bad))
    await process.accept(room, child)
    assert ends(room) == ids(child)
    await process.check(room, dag)
    hidden = dag.join(FRED, prev=ends(room))
    named = dag.write(
        FRED, "m.room.member", {"membership": "join", "displayname": "F"}, FRED, prev=ids(hidden)
    )
    (verdict,) = await process.intake.receive_outliers(room.room_id, dag.version, [named])
    assert verdict.outcome is Outcome.MISSING and list(verdict.missing_auth) == ids(hidden)


class LateRooms(RoomStore):
    """Reads rooms at once, and answers when it is let."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.read: Deferred[None] = Deferred()
        self.go: Deferred[None] = Deferred()

    async def load(self, *, rooms: Sequence[int] = (), room_ids: Sequence[str] = ()) -> list[LoadedRoom]:
        loaded = await super().load(rooms=rooms, room_ids=room_ids)
        self.read.callback(None)
        await self.go
        return loaded


@pytest.mark.parametrize("answered", ["before it is written", "after"])
async def test_a_room_that_is_loaded_anew_meanwhile_is_not_shown_as_it_was(
    database: Database, monkeypatch: pytest.MonkeyPatch, answered: str
) -> None:
    """It went out of memory while history was written, and what was read for its place is of before."""
    process = await Process.open(database)
    room, _, line, _ = await gapped(process, 2)
    other, cache = await process.engine.new_room(), process.engine.cache
    rooms = LateRooms(database)
    monkeypatch.setattr(cache, "_store", rooms)
    commit = ReceivedStore.commit_history
    loading: list[Deferred[Room | None]] = []

    async def meanwhile(self: ReceivedStore, *rows: Any) -> bool:
        with monkeypatch.context() as small:
            small.setattr(cache, "_budget", 1)
            cache._weigh(other)
        assert cache.held(room.room_id) is None
        loading.append(Deferred.fromCoroutine(cache.get(room.room_id)))
        await rooms.read
        if answered != "after":
            rooms.go.callback(None)
        return await commit(self, *rows)

    monkeypatch.setattr(ReceivedStore, "commit_history", meanwhile)
    await process.intake.receive_history(room.room_id, line)
    monkeypatch.setattr(cache, "_store", RoomStore(database))
    if answered == "after":
        rooms.go.callback(None)
    again = await loading[0]
    assert again is not None and again is not room
    assert cache.peek(room.room_id) is None
    assert await cache.get(room.room_id) is again
    assert again.head.head == room.head.head and again.head.oldest_position == room.head.oldest_position
    assert cache.peek(room.room_id) is again
