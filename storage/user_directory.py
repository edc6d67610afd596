# SPDX-License-Identifier: Apache-2.0
"""The user directory: people by the words of their names, and whom of them a user may find.

Owns the index and the one query of a search. How text becomes words is `homeserver/directory`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from storage.database import Database, Transaction

_PUT = """
INSERT INTO user_directory (user_id, display_name, avatar_url, words)
VALUES (%s, %s, %s, array_to_tsvector(%s::text[]))
ON CONFLICT (user_id) DO UPDATE SET display_name = excluded.display_name, avatar_url = excluded.avatar_url,
    words = excluded.words
"""
_DELETE = "DELETE FROM user_directory WHERE user_id = %s"

_SEARCH = """
WITH found AS (
    SELECT user_id FROM user_directory WHERE %(words)s <> '' AND words @@ %(words)s::tsquery
    UNION
    SELECT user_id FROM users WHERE %(words)s <> '' AND localpart_words(user_id) @@ %(words)s::tsquery
    UNION
    SELECT user_id FROM user_directory WHERE %(prefix)s <> '' AND starts_with(user_id, %(prefix)s)
    UNION
    SELECT user_id FROM users WHERE %(prefix)s <> '' AND starts_with(user_id, %(prefix)s)
), mine AS MATERIALIZED (
    SELECT room FROM memberships WHERE user_id = %(searcher)s AND until IS NULL AND membership = 'join'
), judged AS (
    SELECT f.user_id, d.display_name, d.avatar_url, u.user_id IS NOT NULL AS local,
        EXISTS (
            SELECT FROM memberships m
            WHERE m.user_id = f.user_id AND m.until IS NULL AND m.membership = 'join'
              AND m.room IN (SELECT room FROM mine)) AS shares
    FROM found f LEFT JOIN user_directory d USING (user_id) LEFT JOIN users u USING (user_id)
    WHERE f.user_id <> %(searcher)s AND u.deactivated IS NOT true
)
SELECT user_id, display_name, avatar_url FROM judged j
WHERE shares OR (%(all)s AND local) OR EXISTS (
    SELECT FROM memberships m JOIN room_summaries s USING (room)
    WHERE m.user_id = j.user_id AND m.until IS NULL AND m.membership = 'join'
      AND (s.join_rule = 'public' OR s.world_readable))
ORDER BY
    (user_id = %(prefix)s OR split_part(substr(user_id, 2), ':', 1) = %(term)s OR lower(display_name) = %(term)s)
        IS true DESC,
    shares DESC, display_name IS NULL, avatar_url IS NULL, length(coalesce(display_name, user_id)), user_id
LIMIT %(limit)s
"""


class FoundUser(NamedTuple):
    """One result of a search."""

    user_id: str
    display_name: str | None
    avatar_url: str | None


class UserDirectoryStore:
    """Keeps and searches the index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put_txn(
        self,
        txn: Transaction,
        user_id: str,
        display_name: str | None,
        avatar_url: str | None,
        words: Sequence[str],
    ) -> None:
        """Index a user by words (none of them empty)."""
        await txn.execute("user_directory_put", _PUT, (user_id, display_name, avatar_url, list(words)))

    async def delete_txn(self, txn: Transaction, user_id: str) -> None:
        """Let a user be found by nothing but their id."""
        await txn.execute("user_directory_delete", _DELETE, (user_id,))

    async def search(
        self, searcher: str, *, term: str, words: Sequence[str], prefix: str, everyone: bool, limit: int
    ) -> list[FoundUser]:
        """Whom the searcher may find, best first: users sharing a room with them, in a public or world-readable room,
        or any of this server if `everyone`.

        A user is found whose names have words beginning with each of `words` (letters and digits only), or whose id
        begins with `prefix`; each may be empty. `term`: what was typed, for putting exact matches first.
        """
        params = {
            "searcher": searcher,
            "term": term,
            "words": " & ".join(f"'{word}':*" for word in words),
            "prefix": prefix,
            "all": everyone,
            "limit": limit,
        }
        rows = await self._database.fetch("user_directory_search", _SEARCH, params, retry=True)
        return [FoundUser._make(row) for row in rows]
