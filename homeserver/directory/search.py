# SPDX-License-Identifier: Apache-2.0
"""The search for users (client-server API, "User Directory").

Owns what is searched for; whom a user may find is part of the store's one query.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from homeserver.directory.words import words_of
from storage.user_directory import FoundUser, UserDirectoryStore

DEFAULT_LIMIT = 10
MOST = 100


class SearchResult(Struct, frozen=True):
    """Users, best first; `limited` if there are more."""

    users: Sequence[FoundUser]
    limited: bool


class UserSearch:
    """One per process."""

    def __init__(self, store: UserDirectoryStore, *, search_all: bool) -> None:
        """`search_all`: whether a search finds every user of this server."""
        self._store = store
        self._search_all = search_all

    async def search(self, user_id: str, term: str, limit: int = DEFAULT_LIMIT) -> SearchResult:
        """Users whose id or display name has words beginning with those of the term, or whose id begins with it.

        `limit` is kept within 1 and 100.
        """
        typed = term.strip().lower()[:500]
        by_id = typed.startswith("@")
        words = [] if by_id else words_of(typed)
        if not words and (not by_id or len(typed) < 2):
            return SearchResult((), False)
        limit = min(max(limit, 1), MOST)
        found = await self._store.search(
            user_id,
            term=typed,
            words=words,
            prefix=typed if by_id else "",
            everyone=self._search_all,
            limit=limit + 1,
        )
        return SearchResult(found[:limit], len(found) > limit)
