# SPDX-License-Identifier: Apache-2.0
"""What a commit looks for is found by indexes, though its plan may be of when there was little to look through."""

from __future__ import annotations

import json
from uuid import uuid4

from storage.database import Database, Transaction
from tests.rooms.engine_fixture import ALICE, Engine

_ROOMS = """
SELECT json_agg(json_build_object('r', 0, 'room', room, 'expected', head, 'depth', depth, 'extremities', extremities,
    'next_ordinal', next_ordinal, 'snapshot', snapshot, 'next_snapshot', next_snapshot,
    'snapshot_weight', snapshot_weight, 'last', 0, 'transactions', ARRAY[%s]::uuid[]))
FROM rooms WHERE room = %s
"""
_COMMIT = "SELECT written FROM commit_stream(1, 'test', '[]', %s, '[]', '{}', NULL, NULL, NULL, false)"
_SCANNED = "SELECT relname FROM pg_stat_xact_user_tables WHERE seq_scan > 0"


async def test_a_commit_reads_no_table_from_end_to_end(database: Database) -> None:
    engine = await Engine.open(database)
    room = await engine.new_room()
    for number in range(100):
        await engine.send(room.room_id, ALICE, str(number))

    async def work(txn: Transaction) -> set[str]:
        await txn.execute("disk", "SET LOCAL random_page_cost = 100")  # which speaks for reading on in a row
        await txn.execute("new", "DISCARD PLANS")
        found = await txn.fetch_one("rooms", _ROOMS, (str(uuid4()), room.key))
        assert found is not None
        before = {row[0] for row in await txn.fetch("before", _SCANNED)}
        assert await txn.fetch_one("commit", _COMMIT, (json.dumps(found[0]),)) == ([0],)
        return {row[0] for row in await txn.fetch("scanned", _SCANNED)} - before

    assert "events" not in await database.transaction("look", work)
