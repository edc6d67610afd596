# SPDX-License-Identifier: Apache-2.0
"""Where history is missing: pages of a timeline that tell of the next gap, and what is missing there.

Owns reading the table `event_gaps` along with timelines; it is written with the events (`storage/received.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from storage.database import Database
from storage.events import EVENT_COLUMNS, EVENT_JOINS, StoredEvent, TimelinePlace

# The gap is found in the same statement: one look into an index, whether there is any or not.
_PAGE_BACKWARDS = f"""SELECT g.depth, {EVENT_COLUMNS}
    FROM (SELECT max(depth) AS depth FROM event_gaps WHERE room = %(room)s AND depth <= %(depth)s + 1) AS g
    LEFT JOIN (
        SELECT * FROM events n
        WHERE n.room = %(room)s AND (n.depth, n.position) < (%(depth)s, %(position)s) AND n.flags = 0
        ORDER BY n.depth DESC, n.position DESC LIMIT %(limit)s
    ) AS e ON true {EVENT_JOINS} ORDER BY e.depth DESC, e.position DESC"""  # noqa: S608

_PAGE_FORWARDS = f"""SELECT g.depth, {EVENT_COLUMNS}
    FROM (SELECT min(depth) AS depth FROM event_gaps WHERE room = %(room)s AND depth > %(depth)s + 1) AS g
    LEFT JOIN (
        SELECT * FROM events n
        WHERE n.room = %(room)s AND (n.depth, n.position) >= (%(depth)s, %(position)s) AND n.flags = 0
        ORDER BY n.depth, n.position LIMIT %(limit)s
    ) AS e ON true {EVENT_JOINS} ORDER BY e.depth, e.position"""  # noqa: S608

_UPTO = """SELECT missing_event_id, ordinal, depth FROM event_gaps
    WHERE room = %s AND depth <= %s ORDER BY depth DESC LIMIT %s"""

_BETWEEN = "SELECT 1 FROM event_gaps WHERE room = %s AND depth > %s AND depth <= %s LIMIT 1"

_HISTORY_ABOVE = """SELECT 1 FROM event_gaps g JOIN events e USING (room, ordinal)
    WHERE g.room = %s AND g.depth > %s AND (e.position <= 0 OR server_of(e.sender) = %s) LIMIT 1"""

_MISSING = "SELECT missing_event_id FROM event_gaps WHERE room = %s AND missing_event_id = ANY (%s::text[])"


class Gap(NamedTuple):
    """That an event names another which nobody here has."""

    missing_event_id: str
    ordinal: int
    """Of the event that names it, as is `depth`."""
    depth: int


class GapPage(NamedTuple):
    """Rows of a timeline, and the depth of the next event in their direction before which something is missing."""

    rows: list[StoredEvent]
    gap: int | None


class GapStore:
    """Reads gaps."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, room: int, start: TimelinePlace, *, backwards: bool, limit: int) -> GapPage:
        """As `EventStore.page`, with the next gap.

        Backwards that is the one of the deepest event not above the place, one just above it included: a page may end
        at an event whose past is missing. Forwards it is that of the least deep event beyond the place.
        """
        found = await self._database.fetch(
            "gaps_page",
            _PAGE_BACKWARDS if backwards else _PAGE_FORWARDS,
            {
                "room": room,
                "depth": min(start.depth, 2**62),
                "position": start.position,
                "limit": limit,
            },
        )
        rows = [StoredEvent._make(row[1:]) for row in found if row[1] is not None]
        return GapPage(rows, found[0][0])

    async def upto(self, room: int, depth: int, limit: int) -> list[Gap]:
        """What is missing before events of at most that depth, the deepest first."""
        return [
            Gap._make(row) for row in await self._database.fetch("gaps_upto", _UPTO, (room, depth, limit))
        ]

    async def any_between(self, room: int, above: int, upto: int) -> bool:
        """Whether something is missing before an event with above < depth ≤ upto."""
        return await self._database.fetch_one("gaps_between", _BETWEEN, (room, above, upto)) is not None

    async def is_history(self, room: int, depth: int, own_server: str) -> bool:
        """Whether what has that depth lies below history that is missing, or below what this server came with: not
        only below a gap of its own time, beside which other things may be on their way here."""
        row = await self._database.fetch_one("gaps_history_above", _HISTORY_ABOVE, (room, depth, own_server))
        return row is not None

    async def missing(self, room: int, event_ids: Sequence[str]) -> set[str]:
        """Those of the events that are still missing."""
        rows = await self._database.fetch("gaps_missing", _MISSING, (room, list(event_ids)))
        return {str(row[0]) for row in rows}
