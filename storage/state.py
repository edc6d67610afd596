# SPDX-License-Identifier: Apache-2.0
"""State snapshots and the summaries table, read.

Snapshots are written by the stream's commit; what they mean is `homeserver/rooms/engine/snapshots.py`'s.
"""

from __future__ import annotations

from typing import NamedTuple

from storage.database import Database

_CHAIN = """
WITH RECURSIVE chain AS (
    SELECT snapshot, parent, added, removed, checkpoint, 0 AS distance
    FROM state_snapshots WHERE room = %(room)s AND snapshot = %(snapshot)s
    UNION ALL
    SELECT s.snapshot, s.parent, s.added, s.removed, s.checkpoint, chain.distance + 1
    FROM chain JOIN state_snapshots s ON s.room = %(room)s AND s.snapshot = chain.parent
    WHERE chain.checkpoint IS NULL
)
SELECT added, removed, checkpoint FROM chain ORDER BY distance
"""


class SnapshotDelta(NamedTuple):
    """One step of a chain: `checkpoint`, if there is one, stands for the whole state after this step."""

    added: list[int]
    removed: list[int]
    checkpoint: bytes | None


class StateStore:
    """Reads state snapshots."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def chain(self, room: int, snapshot: int) -> list[SnapshotDelta]:
        """The steps that make a snapshot, newest first, back to a checkpoint or the room's beginning."""
        rows = await self._database.fetch("state_chain", _CHAIN, {"room": room, "snapshot": snapshot})
        return [SnapshotDelta._make(row) for row in rows]
