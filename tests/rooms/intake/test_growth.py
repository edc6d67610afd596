# SPDX-License-Identifier: Apache-2.0
"""What forks cost in the database stays bounded: a snapshot for a state change, another where branches meet."""

from __future__ import annotations

import pytest

from homeserver.rooms.intake import history, room_intake
from homeserver.rooms.intake.incoming import Incoming, Outcome
from storage.database import Database
from tests.rooms.intake.dag import ids
from tests.rooms.intake.intake_fixture import DAVE, ERIN, Process, ends

CHANGES = 1500


async def test_much_to_resolve_is_done_in_turns(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others get the reactor, and the room, between one resolution and the next; the outcome is the same."""
    for module in (room_intake, history):
        monkeypatch.setattr(module, "MOST_CONTESTED", 1)
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN)
    base, before = ends(room), room.head.head
    branches = [dag.topic(user, user, prev=base) for user in (DAVE, ERIN)]
    merges = [dag.say(DAVE, f"{number}", prev=ids(*branches)) for number in range(5)]
    await process.accept(room, *branches, *merges)
    assert room.head.head - before > 1
    await process.check(room, dag)
    await process.check_states(room, dag)
    past = [dag.say(ERIN, f"{number}", prev=ids(*branches)) for number in range(5)]
    before = room.head.head
    verdicts = await process.intake.receive_history(room.room_id, past)
    assert [verdict.outcome for verdict in verdicts] == [Outcome.ACCEPTED] * 5
    assert room.head.head - before == 5
    await process.check_states(room, dag)


@pytest.mark.reactor_timeout(300)
async def test_snapshots_of_many_forks(database: Database) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(DAVE, ERIN)
    prev = ends(room)
    events: list[Incoming] = []
    for number in range(CHANGES // 3):
        left = dag.write(DAVE, "com.example.left", {"number": number}, str(number % 50), prev=prev)
        right = dag.write(ERIN, "com.example.right", {"number": number}, str(number % 50), prev=prev)
        merge = dag.topic(DAVE, f"{number}", prev=ids(left, right))
        events += [left, right, merge]
        prev = ids(merge)
    for start in range(0, len(events), 50):
        await process.accept(room, *events[start : start + 50])
    assert ends(room) == prev
    row = await database.fetch_one(
        "test",
        """SELECT count(*), sum(cardinality(added) + cardinality(removed)), max(length(checkpoint)) FROM state_snapshots
        WHERE room = %s""",
        (room.key,),
    )
    assert row is not None
    snapshots, entries, largest = row
    assert snapshots < 2 * CHANGES + 20
    assert entries < 6 * CHANGES
    assert largest < 2000
    await process.check(room, dag)
