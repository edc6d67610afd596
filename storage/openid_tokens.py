# SPDX-License-Identifier: Apache-2.0
"""OpenID tokens, by which a third party learns a user's id. Owns the table; `storage.expiry` sweeps it."""

from __future__ import annotations

from storage.database import Database

_ADD = "INSERT INTO openid_tokens (token_hash, user_id, expires_ts) VALUES (%s, %s, %s)"
_FIND = """
SELECT t.user_id FROM openid_tokens t JOIN users u USING (user_id)
WHERE t.token_hash = %s AND t.expires_ts > %s AND NOT u.deactivated AND NOT u.locked
"""


class OpenIdTokenStore:
    """Keeps OpenID tokens by their SHA-256."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, token_hash: bytes, user_id: str, expires_ts: int) -> None:
        """Keep a new token until `expires_ts` (ms since 1970)."""
        await self._database.execute("openid_tokens_add", _ADD, (token_hash, user_id, expires_ts))

    async def find(self, token_hash: bytes, now: int) -> str | None:
        """The user of a token in force, unless their account is closed or locked."""
        row = await self._database.fetch_one("openid_tokens_find", _FIND, (token_hash, now))
        return None if row is None else row[0]
