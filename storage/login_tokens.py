# SPDX-License-Identifier: Apache-2.0
"""Tokens of `m.login.token`, each good for one log-in. Owns the table.

A token goes with the device whose session asked for it, by reference; expired rows are swept by `storage.expiry`.
"""

from __future__ import annotations

from storage.database import Database, Transaction

# Whoever ends the session at the same time is waited for: a token never outlives it.
_ADD = """
INSERT INTO login_tokens (token_hash, user_id, device_id, expires_ts)
SELECT %s, user_id, device_id, %s FROM devices WHERE user_id = %s AND device_id = %s FOR KEY SHARE
"""
_OWNER = "SELECT user_id FROM login_tokens WHERE token_hash = %s"
_TAKE = "DELETE FROM login_tokens WHERE token_hash = %s RETURNING expires_ts"


class LoginTokenStore:
    """Keeps login tokens by their SHA-256."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, token_hash: bytes, user_id: str, device_id: str | None, expires_ts: int) -> bool:
        """Keep a new token until `expires_ts` (ms since 1970), or its device's end; False if that is gone."""
        params = (token_hash, expires_ts, user_id, device_id)
        return await self._database.execute("login_tokens_add", _ADD, params) == 1

    async def owner_txn(self, txn: Transaction, token_hash: bytes) -> str | None:
        """Whose token it is, be it expired; None if it is unknown or spent."""
        row = await txn.fetch_one("login_tokens_owner", _OWNER, (token_hash,))
        return None if row is None else str(row[0])

    async def take_txn(self, txn: Transaction, token_hash: bytes, now: int) -> bool:
        """Spend a token; False if it is unknown, spent or expired. Of two takers one gets it."""
        row = await txn.fetch_one("login_tokens_take", _TAKE, (token_hash,))
        return row is not None and row[0] > now
