# SPDX-License-Identifier: Apache-2.0
"""The intake among others: sends of ours, another process, and what stands after a restart."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, gatherResults

from homeserver.rooms.engine import Room, RoomHead
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from homeserver.stream import Change, RoomBatch, RoomCommit
from homeserver.stream.batches import Landed
from storage.database import Database
from tests.rooms.engine_fixture import heard
from tests.rooms.intake.dag import ids
from tests.rooms.intake.intake_fixture import DAVE, ERIN, Process, ends


async def test_with_sends_of_ours(database: Database) -> None:
    """Batches hold both kinds; nothing is lost, nothing is written twice."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN)
    prev = ends(room)
    line: list[Incoming] = []
    for number in range(40):
        line.append(dag.topic(DAVE, f"{number}", prev=prev) if number % 3 else dag.say(DAVE, "hm", prev=prev))
        prev = ids(line[-1])
    receiving = [
        Deferred.fromCoroutine(process.intake.receive(room.room_id, line[start : start + 7]))
        for start in range(0, 40, 7)
    ]
    sending = [Deferred.fromCoroutine(process.say(room, f"{number}")) for number in range(40)]
    verdicts = [v for answers in await gatherResults(receiving) for v in answers]
    said = await gatherResults(sending)
    assert {v.outcome for v in verdicts} == {Outcome.ACCEPTED}
    assert set(await process.intake.standing([*said, *ids(*line)])) == {*said, *ids(*line)}
    await dag.learn(database, room)
    await process.check(room, dag)
    await process.check_states(room, dag)


async def test_two_processes(database: Database) -> None:
    """Both take in the same events, each its own besides, and both send."""
    one = await Process.open(database)
    room, dag = await one.room_with(DAVE, ERIN)
    two = await Process.open(database)
    other = await two.engine.cache.get(room.room_id)
    assert other is not None
    base = ends(room)
    lines: list[list[Incoming]] = []
    for user in (DAVE, ERIN):
        prev = base
        lines.append([])
        for number in range(20):
            lines[-1].append(dag.topic(user, f"{number}", prev=prev))
            prev = ids(lines[-1][-1])
    work: list[Deferred[list[Verdict]]] = []
    for process, held in ((one, room), (two, other)):
        for line in lines:
            for start in range(0, 20, 5):
                work.append(
                    Deferred.fromCoroutine(process.intake.receive(held.room_id, line[start : start + 5]))
                )
    sends = [
        Deferred.fromCoroutine(process.say(held, f"{number}"))
        for number in range(10)
        for process, held in ((one, room), (two, other))
    ]
    outcomes = [v.outcome for answers in await gatherResults(work) for v in answers]
    await gatherResults(sends)
    assert outcomes.count(Outcome.ACCEPTED) == outcomes.count(Outcome.KNOWN) == 40
    again = await one.engine.cache.get(room.room_id)
    assert again is not None
    await dag.learn(database, again)
    await one.check(again, dag)
    await one.check_states(again, dag)


@pytest.mark.parametrize("completed", [False, True])
async def test_states_of_a_room_that_was_completed_meanwhile(
    database: Database, monkeypatch: pytest.MonkeyPatch, completed: bool
) -> None:
    """They are kept, but where they were made of what was known before and the answer of their commit came after."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    commit, states = process.engine.committer.commit_room, process.intake._states

    def late(batch: RoomBatch, landed: Landed) -> Deferred[RoomCommit | None]:
        def hear(answer: RoomCommit | None) -> RoomCommit | None:
            if completed:
                states.changed(Change(before=0, count=0, rooms=[room.key], foreign=True, whole=True))
            return answer

        return commit(batch, landed).addCallback(hear)

    prev = ends(room)
    await process.accept(room, dag.topic(DAVE, "one", prev=prev))
    monkeypatch.setattr(process.engine.committer, "commit_room", late)
    await process.accept(room, dag.topic(DAVE, "other", prev=prev))
    assert bool(states._states) is not completed


def rewind(room: Room, head: RoomHead) -> None:
    """The room as it was before what came since."""
    room.head, room.beyond = head, 0
    while room.recent and room.recent[-1].stored.position > head.position:
        room.recent.pop()


async def test_what_is_looked_up_is_newer_than_the_head(database: Database) -> None:
    """Another process has written the room, which was not heard of yet, and an event from there builds on that."""
    one = await Process.open(database)
    room, dag = await one.room_with(DAVE, ERIN)
    two = await Process.open(database)
    held = await two.engine.cache.get(room.room_id)
    assert held is not None
    topics = [dag.topic(DAVE, "one", prev=ends(room))]
    topics.append(dag.topic(DAVE, "two", prev=ids(topics[0])))
    behind = held.head
    await one.accept(room, *topics)
    rewind(held, behind)
    left = dag.topic(ERIN, "left", prev=ids(topics[0]))
    await two.accept(held, left)
    await two.check(held, dag)
    rewind(held, behind)
    history = dag.say(ERIN, "aside", prev=ids(topics[1]))
    (verdict,) = await two.intake.receive_history(room.room_id, [history])
    assert verdict.outcome is Outcome.ACCEPTED


async def test_stored_as_an_outlier_meanwhile(database: Database) -> None:
    one = await Process.open(database)
    room, dag = await one.room_with(DAVE)
    two = await Process.open(database)
    topics = []
    prev = ends(room)
    for number in range(10):
        topics.append(dag.topic(DAVE, f"{number}", prev=prev))
        prev = ids(topics[-1])
    both = [
        Deferred.fromCoroutine(one.intake.receive(room.room_id, topics)),
        Deferred.fromCoroutine(two.intake.receive_outliers(room.room_id, dag.version, topics)),
    ]
    received, _ = await gatherResults(both)
    assert {v.outcome for v in received} == {Outcome.ACCEPTED}
    one.engine.cache.mark_stale(room.room_id)  # of outliers stored elsewhere nobody is told
    again = await one.engine.cache.get(room.room_id)
    assert again is not None
    await one.check(again, dag)
    await one.check_states(again, dag)


async def test_after_a_restart(database: Database) -> None:
    """A fork goes on where another process left it."""
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN)
    base = ends(room)
    left, right = dag.topic(DAVE, "left", prev=base), dag.topic(ERIN, "right", prev=base)
    await process.accept(room, left, right)
    for number in range(6):
        process = await Process.open(database)
        again = await process.engine.cache.get(room.room_id)
        assert again is not None
        left = dag.say(DAVE, f"left {number}", prev=ids(left))
        right = dag.write(ERIN, "m.room.name", {"name": f"{number}"}, "", prev=ids(right))
        await process.accept(again, left)
        await process.accept(again, right)
        assert set(ends(again)) == set(ids(left, right))
        await process.check(again, dag)
    assert again is not None
    await process.check_states(again, dag)


async def test_history_beside_sends(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE)
    other = await Process.open(database)
    line: list[Incoming] = []
    prev = ends(room)
    for number in range(20):
        line.append(dag.say(DAVE, f"{number}", prev=prev))
        prev = ids(line[-1])
    late = dag.say(DAVE, "late", prev=prev)
    await process.accept(room, Incoming(late.event, late.json, list(dag.before(late.event).values())))
    held = await other.engine.cache.get(room.room_id)
    assert held is not None
    sends = [
        Deferred.fromCoroutine(p.say(r, "x")) for _ in range(10) for p, r in ((process, room), (other, held))
    ]
    parts = [
        Deferred.fromCoroutine(p.intake.receive_history(room.room_id, line[start : start + 5]))
        for start in (15, 10, 5, 0)
        for p in (process, other)
    ]
    outcomes = [v.outcome for answers in await gatherResults(parts) for v in answers]
    await gatherResults(sends)
    assert set(outcomes) <= {Outcome.ACCEPTED, Outcome.KNOWN}
    found = await process.engine.events.by_ids(ids(*line))
    positions = [found[event_id].position for event_id in ids(*line)]
    assert positions == sorted(positions) and len(set(positions)) == 20
    await process.say(await other.engine.new_room(), "after all of it")
    await heard(process.engine, other.engine)
    again = await process.engine.cache.get(room.room_id)
    assert again is not None
    await dag.learn(database, again)
    await process.check(again, dag)
    await process.check_states(again, dag)


async def test_what_history_strikes_is_struck_in_other_processes(database: Database) -> None:
    """The redaction comes late, as history, and what it strikes is in the other's memory."""
    one, two = await Process.open(database), await Process.open(database)
    room, dag = await one.room_with(DAVE)
    topic = dag.topic(DAVE, "secret", prev=ends(room))
    strike = dag.write(DAVE, "m.room.redaction", {}, prev=ids(topic), redacts=topic.event.event_id)
    late = dag.say(DAVE, "late", prev=ids(strike))
    given = Incoming(late.event, late.json, list(dag.before(late.event).values()))
    await one.accept(room, topic, given)
    await heard(two.engine, one.engine)
    held = await two.engine.cache.get(room.room_id)
    assert held is not None and held.head.text("m.room.topic", "topic") == "secret"
    verdicts = await one.intake.receive_history(room.room_id, [strike])
    assert {v.outcome for v in verdicts} == {Outcome.ACCEPTED}
    for written in (await one.engine.new_room(), room):
        await one.say(written, "news")
        await heard(two.engine, one.engine)
        assert await two.engine.cache.get(room.room_id) is held
        assert held.head.text("m.room.topic", "topic") is None, written is room
        assert held.head.oldest_position == room.head.oldest_position
