# SPDX-License-Identifier: Apache-2.0
"""Nonces of registration by shared secret, each good for one attempt. Owns the table; `storage.expiry` sweeps it."""

from __future__ import annotations

from storage.database import Database

_ADD = "INSERT INTO registration_nonces (nonce, expires_ts) VALUES (%s, %s)"
_TAKE = "DELETE FROM registration_nonces WHERE nonce = %s RETURNING expires_ts"


class RegistrationNonceStore:
    """Keeps nonces given out, until used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, nonce: str, expires_ts: int) -> None:
        """Keep a new nonce until `expires_ts` (ms since 1970)."""
        await self._database.execute("registration_nonces_add", _ADD, (nonce, expires_ts))

    async def take(self, nonce: str, now: int) -> bool:
        """Spend a nonce; False if it is unknown, spent or expired."""
        row = await self._database.fetch_one("registration_nonces_take", _TAKE, (nonce,), retry=False)
        return row is not None and row[0] > now
