# SPDX-License-Identifier: Apache-2.0
"""What stands around and below given events of a room, for walking its graph towards the past.

Edges of the graph are not stored: an event's JSON names the events before it. So a stretch of the room by depth is
read in one query, and who walks follows the edges in it; depth is what senders claim, and an event that is not in the
stretch for that can be read by its id.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.database import Database, Prepared
from storage.events import EVENT_COLUMNS, EVENT_JOINS, StoredEvent

_BELOW = Prepared(
    f"""WITH top AS (
        SELECT depth, position FROM events WHERE event_id = ANY (%s) AND room = %s AND flags & 5 = 0
        ORDER BY depth DESC, position DESC LIMIT 1
    )
    SELECT {EVENT_COLUMNS} FROM top CROSS JOIN LATERAL (
        SELECT * FROM events n
        WHERE n.room = %s AND (n.depth, n.position) <= (top.depth, top.position) AND n.flags & 5 = 0
        ORDER BY n.depth DESC, n.position DESC LIMIT %s
    ) AS e {EVENT_JOINS}"""  # noqa: S608
)

_BY_IDS = Prepared(
    f"""SELECT {EVENT_COLUMNS} FROM events e {EVENT_JOINS}
    WHERE e.event_id = ANY (%s) AND e.room = %s AND e.flags & 5 = 0"""  # noqa: S608
)


class AncestorStore:
    """Reads events that have a place in their room's graph: neither rejected ones nor outliers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def below(self, room: int, event_ids: Sequence[str], limit: int) -> list[StoredEvent]:
        """From the deepest of those events on, itself included, the `limit` events next below it by depth.

        Nothing if none of them is the room's.
        """
        params = (list(event_ids), room, room, limit)
        return [
            StoredEvent._make(row) for row in await self._database.fetch("ancestors_below", _BELOW, params)
        ]

    async def by_ids(self, room: int, event_ids: Sequence[str]) -> list[StoredEvent]:
        """Those of the events that are the room's."""
        rows = await self._database.fetch("ancestors_by_ids", _BY_IDS, (list(event_ids), room))
        return [StoredEvent._make(row) for row in rows]
