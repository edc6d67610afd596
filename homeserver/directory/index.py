# SPDX-License-Identifier: Apache-2.0
"""The directory's index, kept with the profiles it is made of."""

from __future__ import annotations

from homeserver.directory.words import words_of_user
from storage.database import Transaction
from storage.user_directory import UserDirectoryStore


class DirectoryIndex:
    """Indexes users by their names."""

    def __init__(self, store: UserDirectoryStore) -> None:
        self._store = store

    async def put_txn(
        self, txn: Transaction, user_id: str, display_name: str | None, avatar_url: str | None
    ) -> None:
        """Have a user found by these names from now on."""
        words = words_of_user(user_id, display_name)
        await self._store.put_txn(txn, user_id, display_name, avatar_url, words)

    async def remove_txn(self, txn: Transaction, user_id: str) -> None:
        """Have a user found no more by any name."""
        await self._store.delete_txn(txn, user_id)
