# SPDX-License-Identifier: Apache-2.0
"""The outgoing_edus table: ephemeral units that wait for a server until it has them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from storage.database import Database, JsonRows

MOST_KEPT = 10_000
"""Units kept for one server; beyond, the oldest are dropped."""

_ADD = """
INSERT INTO outgoing_edus (server_name, edu_type, key, content)
SELECT server_name, edu_type, key, content
FROM ROWS FROM (json_to_recordset(%s) AS (server_name text, edu_type text, key text, content text))
    WITH ORDINALITY AS x(server_name, edu_type, key, content, n)
ORDER BY server_name, n
ON CONFLICT (server_name, edu_type, key) WHERE key IS NOT NULL
DO UPDATE SET content = excluded.content, id = excluded.id
"""
_FIRST = """
SELECT id, edu_type, content, found FROM (
    SELECT id, edu_type, content, count(*) OVER () AS found,
        sum(octet_length(content)) OVER (ORDER BY id) - octet_length(content) AS before
    FROM (SELECT id, edu_type, content FROM outgoing_edus WHERE server_name = %s ORDER BY id LIMIT %s) AS f
) AS w WHERE before < %s ORDER BY id
"""
_REMOVE = "DELETE FROM outgoing_edus WHERE server_name = %s AND id = ANY (%s::bigint[])"
_TRIM = """
DELETE FROM outgoing_edus e USING (
    SELECT w.server_name, (
        SELECT id FROM outgoing_edus o WHERE o.server_name = w.server_name ORDER BY id DESC OFFSET %s LIMIT 1
    ) AS last FROM unnest(%s::text[]) AS w(server_name)
) AS t WHERE e.server_name = t.server_name AND e.id <= t.last
"""
# From one server to the next, off the primary key: thousands of units may wait for each.
_WAITING = """
WITH RECURSIVE w(server_name) AS (
    SELECT min(server_name) FROM outgoing_edus
    UNION ALL
    SELECT (SELECT min(e.server_name) FROM outgoing_edus e WHERE e.server_name > w.server_name)
    FROM w WHERE w.server_name IS NOT NULL
) SELECT server_name FROM w WHERE server_name IS NOT NULL
"""


class NewEdu(NamedTuple):
    """A unit to keep. `content` is canonical JSON."""

    server_name: str
    edu_type: str
    key: str | None
    content: str


class KeptEdu(NamedTuple):
    """A unit that waits."""

    id: int
    edu_type: str
    content: str


class FirstEdus(NamedTuple):
    """The oldest that wait for a server."""

    edus: list[KeptEdu]
    more: bool
    """Whether others may wait behind them."""


class OutgoingEduStore:
    """Keeps units."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, edus: Sequence[NewEdu]) -> None:
        """Keep units behind those that wait already; no two of them may have one server, type and key."""
        rows = JsonRows([edu._asdict() for edu in edus])
        await self._database.execute("outgoing_edus_add", _ADD, (rows,))

    async def first(self, server_name: str, limit: int, most_bytes: int) -> FirstEdus:
        """The oldest that wait for a server, up to the one with which they have so many bytes."""
        rows = await self._database.fetch("outgoing_edus_first", _FIRST, (server_name, limit, most_bytes))
        found = rows[0][3] if rows else 0
        return FirstEdus([KeptEdu._make(row[:3]) for row in rows], found > len(rows) or found == limit)

    async def remove(self, server_name: str, ids: Sequence[int]) -> None:
        """They arrived. One that was replaced meanwhile has another id and stays."""
        await self._database.execute("outgoing_edus_remove", _REMOVE, (server_name, list(ids)))

    async def trim(self, server_names: Collection[str], most: int = MOST_KEPT) -> int:
        """Drop the oldest of what exceeds the limit; how many that were."""
        return await self._database.execute("outgoing_edus_trim", _TRIM, (most, list(server_names)))

    async def waiting(self) -> set[str]:
        """The servers that something waits for."""
        return {str(row[0]) for row in await self._database.fetch("outgoing_edus_waiting", _WAITING)}
