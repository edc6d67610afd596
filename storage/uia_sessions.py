# SPDX-License-Identifier: Apache-2.0
"""Sessions of user-interactive authentication: what they authorise, for whom, and which stages are behind them.

Owns the table, in the database because the next request of a client may reach another process. `storage.expiry`
sweeps expired rows. Request bodies are not kept: they may hold passwords.
"""

from __future__ import annotations

from msgspec import Struct

from storage.database import Database, Transaction

_COLUMNS = "session_id, operation, user_id, completed, registration_token"

_ADD = "INSERT INTO uia_sessions (session_id, operation, user_id, expires_ts) VALUES (%s, %s, %s, %s)"
_GET = f"SELECT {_COLUMNS} FROM uia_sessions WHERE session_id = %s AND expires_ts > %s"  # noqa: S608
_COMPLETE = """
UPDATE uia_sessions SET completed = array_append(completed, %(stage)s)
WHERE session_id = %(session)s AND expires_ts > %(now)s AND NOT %(stage)s = ANY (completed)
"""
_TAKE = "DELETE FROM uia_sessions WHERE session_id = %s RETURNING expires_ts"


class UiaSession(Struct, frozen=True):
    """A session in force. `completed` has the stages in the order they were completed."""

    session_id: str
    operation: str
    user_id: str | None
    completed: list[str]
    registration_token: str | None


class UiaSessionStore:
    """Keeps sessions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, session_id: str, operation: str, user_id: str | None, expires_ts: int) -> None:
        """Begin a session that ends at `expires_ts` (ms since 1970) at the latest."""
        await self._database.execute("uia_add", _ADD, (session_id, operation, user_id, expires_ts))

    async def get(self, session_id: str, now: int) -> UiaSession | None:
        """A session that is not expired."""
        row = await self._database.fetch_one("uia_get", _GET, (session_id, now))
        return None if row is None else UiaSession(*row)

    async def complete(self, session_id: str, stage: str, now: int) -> None:
        """Note a stage as completed. No effect on a session that has it or is gone."""
        params = {"session": session_id, "stage": stage, "now": now}
        await self._database.execute("uia_complete", _COMPLETE, params)

    async def take(self, session_id: str, now: int) -> bool:
        """End a session by using it; False if it was used or expired. Of two takers one gets it."""
        row = await self._database.fetch_one("uia_take", _TAKE, (session_id,), retry=False)
        return row is not None and row[0] > now

    async def take_txn(self, txn: Transaction, session_id: str, now: int) -> bool:
        """As `take`, undone if the transaction fails."""
        row = await txn.fetch_one("uia_take", _TAKE, (session_id,))
        return row is not None and row[0] > now
