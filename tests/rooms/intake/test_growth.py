# SPDX-License-Identifier: Apache-2.0
"""What forks cost in the database stays bounded: a snapshot for a state change, another where branches meet."""

from __future__ import annotations

import pytest

from homeserver.rooms.intake.incoming import Incoming
from storage.database import Database
from tests.rooms.intake.dag import ids
from tests.rooms.intake.intake_fixture import DAVE, ERIN, Process, ends

CHANGES = 1500


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
