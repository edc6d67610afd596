# SPDX-License-Identifier: Apache-2.0
"""Filters that clients uploaded. Owns the table; what a filter means is `homeserver/protocol`'s and the sync's."""

from __future__ import annotations

from storage.database import Database

MOST_PER_USER = 200
"""A client uploads a handful in its life; above this many, the one uploaded longest ago goes."""

_PUT = """
INSERT INTO filters (user_id, filter_id, uploaded_ts, definition)
VALUES (%(user_id)s, %(filter_id)s, %(now)s, %(definition)s)
ON CONFLICT (user_id, filter_id) DO UPDATE SET uploaded_ts = excluded.uploaded_ts
"""
_TRIM = """
DELETE FROM filters WHERE user_id = %(user_id)s AND filter_id IN (
    SELECT filter_id FROM filters WHERE user_id = %(user_id)s
    ORDER BY uploaded_ts DESC, filter_id OFFSET %(most)s)
"""
_GET = "SELECT definition FROM filters WHERE user_id = %s AND filter_id = %s"


class FilterStore:
    """Keeps filters by user and id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, user_id: str, filter_id: str, definition: str, now: int) -> None:
        """Keep a filter (canonical JSON), or renew its age if it is there."""
        params = {"user_id": user_id, "filter_id": filter_id, "definition": definition, "now": now}
        await self._database.execute("filters_put", _PUT, params)
        await self._database.execute("filters_trim", _TRIM, {"user_id": user_id, "most": MOST_PER_USER})

    async def get(self, user_id: str, filter_id: str) -> str | None:
        """A filter's canonical JSON."""
        row = await self._database.fetch_one("filters_get", _GET, (user_id, filter_id))
        return None if row is None else row[0]
