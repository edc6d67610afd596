# SPDX-License-Identifier: Apache-2.0
"""Tokens of `m.login.token`, each good for one log-in. Owns the table; expired rows are swept by `storage.expiry`."""

from __future__ import annotations

from storage.database import Database

_ADD = "INSERT INTO login_tokens (token_hash, user_id, expires_ts) VALUES (%s, %s, %s)"
_TAKE = "DELETE FROM login_tokens WHERE token_hash = %s RETURNING user_id, expires_ts"


class LoginTokenStore:
    """Keeps login tokens by their SHA-256."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, token_hash: bytes, user_id: str, expires_ts: int) -> None:
        """Keep a new token until `expires_ts` (ms since 1970)."""
        await self._database.execute("login_tokens_add", _ADD, (token_hash, user_id, expires_ts))

    async def take(self, token_hash: bytes, now: int) -> str | None:
        """Spend a token: its user, or None if it is unknown, spent or expired. Of two takers one gets it."""
        row = await self._database.fetch_one("login_tokens_take", _TAKE, (token_hash,), retry=False)
        return row[0] if row is not None and row[1] > now else None
