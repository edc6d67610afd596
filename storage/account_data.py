# SPDX-License-Identifier: Apache-2.0
"""The account_data table: what clients keep for a user, global or per room.

Owns reading and erasing; entries are written through the stream (`write_account_data` in migration 0003).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from storage.database import Database, Prepared


class AccountDataEntry(NamedTuple):
    """One row of `account_data`."""

    room: int
    """0: global."""
    type: str
    content: str | None
    """A JSON object; None: deleted."""
    position: int


_ALL = Prepared("SELECT room, type, content, position FROM account_data WHERE user_id = %s")
_ONE = "SELECT room, type, content, position FROM account_data WHERE user_id = %s AND room = %s AND type = %s"
_OF_USERS = """
SELECT user_id, content FROM account_data WHERE user_id = ANY (%s) AND room = 0 AND type = %s AND content IS NOT NULL
"""
_ERASE = "DELETE FROM account_data WHERE user_id = %s"


class AccountDataStore:
    """Reads and erases account data."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self, user_id: str) -> list[AccountDataEntry]:
        """Everything kept for a user, deleted entries included."""
        rows = await self._database.fetch("account_data_all", _ALL, (user_id,))
        return [AccountDataEntry._make(row) for row in rows]

    async def one(self, user_id: str, room: int, event_type: str) -> AccountDataEntry | None:
        """One entry as it stands in the database now."""
        row = await self._database.fetch_one("account_data_one", _ONE, (user_id, room, event_type))
        return None if row is None else AccountDataEntry._make(row)

    async def of_users(self, user_ids: Sequence[str], event_type: str) -> dict[str, str]:
        """The content of one global type, for those of the users who have it."""
        rows = await self._database.fetch("account_data_of_users", _OF_USERS, (list(user_ids), event_type))
        return {str(user_id): str(content) for user_id, content in rows}

    async def erase(self, user_id: str) -> None:
        """Delete everything kept for a user, without telling their devices."""
        await self._database.execute("account_data_erase", _ERASE, (user_id,))
