# SPDX-License-Identifier: Apache-2.0
"""What became of many rooms since a point of the stream, one query for all of them.

Owns finding the rooms that moved and reading their state as it was: the snapshots that `storage/state.py` reads one at
a time. What a client has to be told of it is the sync's.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.database import Database, Prepared
from storage.state import SnapshotDelta

_MOVED = "SELECT room FROM rooms WHERE room = ANY (%s::bigint[]) AND position > %s"

_AS_OF = Prepared(
    """SELECT w.room, e.current_snapshot
    FROM unnest(%s::bigint[], %s::bigint[]) AS w(room, position)
    CROSS JOIN LATERAL (
        SELECT current_snapshot FROM events n
        WHERE n.room = w.room AND n.position > 0 AND n.position <= w.position AND n.flags = 0
        ORDER BY n.position DESC LIMIT 1
    ) AS e"""
)

# Before an event that came on a branch the room's state was another than before the event there.
_BEFORE_NEXT = Prepared(
    """SELECT w.room, CASE WHEN e.after_snapshot IS NULL THEN e.snapshot ELSE (
            SELECT current_snapshot FROM events p
            WHERE p.room = w.room AND p.position > 0 AND p.position <= w.position AND p.flags = 0
            ORDER BY p.position DESC LIMIT 1
        ) END
    FROM unnest(%s::bigint[], %s::bigint[]) AS w(room, position)
    CROSS JOIN LATERAL (
        SELECT snapshot, after_snapshot FROM events n
        WHERE n.room = w.room AND n.position > w.position AND n.flags = 0
        ORDER BY n.position LIMIT 1
    ) AS e"""
)

_GAPS = Prepared(
    """SELECT w.room, max(g.position)
    FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS w(room, after, upto)
    JOIN timeline_gaps g ON g.room = w.room AND g.position > w.after AND g.position <= w.upto
    GROUP BY w.room"""
)

_CHAINS = """
WITH RECURSIVE chain AS (
    SELECT w.room, w.snapshot AS wanted, s.parent, s.added, s.removed, s.checkpoint, 0 AS distance
    FROM unnest(%s::bigint[], %s::int[]) AS w(room, snapshot) JOIN state_snapshots s USING (room, snapshot)
    UNION ALL
    SELECT chain.room, chain.wanted, s.parent, s.added, s.removed, s.checkpoint, chain.distance + 1
    FROM chain JOIN state_snapshots s ON s.room = chain.room AND s.snapshot = chain.parent
    WHERE chain.checkpoint IS NULL
)
SELECT room, wanted, added, removed, checkpoint FROM chain ORDER BY room, wanted, distance
"""

_REDACTED = Prepared(
    """SELECT e.room, e.ordinal
    FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS w(room, after, upto)
    JOIN events e ON e.room = w.room AND e.redacted_by IS NOT NULL AND e.state_key IS NOT NULL
    JOIN events d ON d.event_id = e.redacted_by AND d.position > w.after AND d.position <= w.upto"""
)


class RoomHistoryStore:
    """Reads the past of rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def moved_since(self, rooms: Sequence[int], position: int) -> set[int]:
        """Which of the rooms have an event above a position."""
        if not rooms:
            return set()
        rows = await self._database.fetch("rooms_moved", _MOVED, (list(rooms), position))
        return {int(row[0]) for row in rows}

    async def snapshots_as_of(self, places: Sequence[tuple[int, int]]) -> dict[int, int]:
        """For each (room, position): the snapshot of the state once everything up to that position had happened.

        A room with nothing up to the position is absent.
        """
        if not places:
            return {}
        rooms, positions = (list(column) for column in zip(*places, strict=True))
        rows = await self._database.fetch("state_snapshots_as_of", _AS_OF, (rooms, positions))
        return {room: snapshot for room, snapshot in rows if snapshot is not None}

    async def snapshots_before_next(self, places: Sequence[tuple[int, int]]) -> dict[int, int]:
        """For each (room, position): the snapshot of the state right before the next event after that position.

        That is another than `snapshots_as_of` where this server came into the room by that event. A room with nothing
        after the position is absent.
        """
        if not places:
            return {}
        rooms, positions = (list(column) for column in zip(*places, strict=True))
        rows = await self._database.fetch("state_snapshots_before_next", _BEFORE_NEXT, (rooms, positions))
        return {room: snapshot for room, snapshot in rows if snapshot is not None}

    async def newest_gaps(self, spans: Sequence[tuple[int, int, int]]) -> dict[int, int]:
        """For each (room, after, upto): the position of the newest event in between that came without what was before
        it; rooms without one are absent."""
        if not spans:
            return {}
        rooms, after, upto = (list(column) for column in zip(*spans, strict=True))
        rows = await self._database.fetch("timeline_gaps", _GAPS, (rooms, after, upto))
        return {int(room): int(position) for room, position in rows}

    async def chains(self, wanted: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[SnapshotDelta]]:
        """For each (room, snapshot): the steps that make it, newest first, as `StateStore.chain` gives them."""
        found: dict[tuple[int, int], list[SnapshotDelta]] = {place: [] for place in wanted}
        if not found:
            return found
        rooms, snapshots = (list(column) for column in zip(*found, strict=True))
        for room, snapshot, added, removed, checkpoint in await self._database.fetch(
            "state_chains", _CHAINS, (rooms, snapshots), retry=True
        ):
            found[room, snapshot].append(SnapshotDelta(added, removed, checkpoint))
        return found

    async def redacted_between(self, spans: Sequence[tuple[int, int, int]]) -> list[tuple[int, int]]:
        """For each (room, after, upto): the state events, as (room, ordinal), that were redacted in between."""
        if not spans:
            return []
        rooms, after, upto = (list(column) for column in zip(*spans, strict=True))
        rows = await self._database.fetch("state_redacted", _REDACTED, (rooms, after, upto))
        return [(room, ordinal) for room, ordinal in rows]
