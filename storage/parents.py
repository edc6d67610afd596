# SPDX-License-Identifier: Apache-2.0
"""Which events have children at all, of the table `event_relations`: most have none, and are spared further questions.

What the children add up to is `storage/relations.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.database import Database, Prepared

_AMONG = Prepared("""SELECT DISTINCT relates_to FROM event_relations
    WHERE room = %s AND relates_to = ANY (%s::text[]) AND bundled""")


class ParentStore:
    """Finds parents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def among(self, room: int, event_ids: Sequence[str]) -> set[str]:
        """Those of the events that have children which may count in their aggregations."""
        rows = await self._database.fetch("relations_parents", _AMONG, (room, list(event_ids)))
        return {str(row[0]) for row in rows}
