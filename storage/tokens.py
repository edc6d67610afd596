# SPDX-License-Identifier: Apache-2.0
"""Access and refresh tokens: whose they are, and the rotation of refresh tokens.

Owns both tables. Tokens come in and stay as SHA-256 digests: no text of one ever reaches the database. Whatever ends
a token before its time notifies `REVOKED` with the user's id in the same transaction, so that every process forgets
what it remembers of that user's tokens.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from storage.database import Database, Prepared, Transaction

REVOKED: Final = "tokens_revoked"
"""The channel that tells which user's tokens, rights or standing changed; the payload is the user id."""

GRACE_MS: Final = 60_000
"""How long an access token that was refreshed still works for requests that were under way with it."""

_KEPT_EXPIRED_MS: Final = 86_400_000

_FIND = Prepared("""
SELECT t.user_id, t.device_id, t.expires_ts, t.refresh_hash, t.unused,
    u.admin, u.guest, u.deactivated, u.locked, u.suspended
FROM access_tokens t JOIN users u USING (user_id)
WHERE t.token_hash = %s::bytea
""")

_ADD_REFRESH = """
INSERT INTO refresh_tokens (token_hash, user_id, device_id, created_ts, replaces) VALUES (%s, %s, %s, %s, %s)
"""
_ADD_ACCESS = """
INSERT INTO access_tokens (token_hash, user_id, device_id, created_ts, expires_ts, refresh_hash, unused)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""

_CLEAR_DEVICE = """
WITH a AS (DELETE FROM access_tokens WHERE user_id = %(user_id)s AND device_id = %(device_id)s),
    r AS (DELETE FROM refresh_tokens WHERE user_id = %(user_id)s AND device_id = %(device_id)s),
    l AS (DELETE FROM login_tokens WHERE user_id = %(user_id)s AND device_id = %(device_id)s)
SELECT pg_notify('tokens_revoked', %(user_id)s)
"""

# The device first, as who ends it takes first the device and then its tokens.
_LOCK_REFRESH = """
SELECT r.user_id, r.device_id, r.replaces, u.deactivated, u.locked
FROM refresh_tokens r JOIN users u USING (user_id) JOIN devices d USING (user_id, device_id)
WHERE r.token_hash = %s FOR KEY SHARE OF d FOR UPDATE OF r
"""
_DROP_UNUSED_SUCCESSOR = """
WITH successor AS (DELETE FROM refresh_tokens WHERE replaces = %(hash)s RETURNING token_hash)
DELETE FROM access_tokens USING successor WHERE refresh_hash = successor.token_hash
"""
_DROP_EXPIRED = "DELETE FROM access_tokens WHERE user_id = %s AND device_id = %s AND expires_ts < %s"

_SUCCEEDED = """
WITH current AS (
    UPDATE refresh_tokens SET replaces = NULL FROM refresh_tokens old
    WHERE refresh_tokens.token_hash = %(hash)s AND old.token_hash = refresh_tokens.token_hash
    RETURNING old.replaces
)
DELETE FROM refresh_tokens USING current WHERE token_hash = current.replaces
"""
_USED = """
UPDATE access_tokens SET unused = false,
    expires_ts = CASE WHEN refresh_hash = %(hash)s THEN expires_ts
                      ELSE least(coalesce(expires_ts, %(until)s), %(until)s) END
WHERE user_id = %(user_id)s AND device_id = %(device_id)s
"""


class TokenOwner(Struct, frozen=True):
    """An access token that exists, and its user's standing at the moment of reading."""

    user_id: str
    device_id: str
    expires_ts: int | None
    refresh_hash: bytes | None
    unused: bool
    """The first use must be reported with `TokenStore.used`."""
    admin: bool
    guest: bool
    deactivated: bool
    locked: bool
    suspended: bool


class IssuedTokens(Struct, frozen=True):
    """Digests of new tokens, and when the access token ends (ms since 1970, None: never)."""

    access_hash: bytes
    refresh_hash: bytes | None = None
    expires_ts: int | None = None


class RefreshOwner(Struct, frozen=True):
    """Whose a presented refresh token is; nothing was issued if `deactivated` or `locked`."""

    user_id: str
    device_id: str
    deactivated: bool
    locked: bool


class TokenStore:
    """Finds, issues, rotates and ends tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, access_hash: bytes) -> TokenOwner | None:
        """The owner of an access token, expired ones included; one round trip, two index look-ups."""
        row = await self._database.fetch_one("tokens_find", _FIND, (access_hash,), retry=True)
        return None if row is None else TokenOwner(*row)

    async def replace_txn(
        self, txn: Transaction, user_id: str, device_id: str, tokens: IssuedTokens, now: int
    ) -> None:
        """End every token of an existing device, those by which it would let others in too, and give it these."""
        params = {"user_id": user_id, "device_id": device_id}
        await txn.fetch_one("tokens_clear_device", _CLEAR_DEVICE, params)
        await self.issue_txn(txn, user_id, device_id, tokens, now)

    async def issue_txn(
        self, txn: Transaction, user_id: str, device_id: str, tokens: IssuedTokens, now: int
    ) -> None:
        """Give a new device its first tokens."""
        if tokens.refresh_hash is not None:
            refresh = (tokens.refresh_hash, user_id, device_id, now, None)
            await txn.execute("tokens_add_refresh", _ADD_REFRESH, refresh)
        access = (tokens.access_hash, user_id, device_id, now, tokens.expires_ts, tokens.refresh_hash, False)
        await txn.execute("tokens_add_access", _ADD_ACCESS, access)

    async def refresh(self, refresh_hash: bytes, tokens: IssuedTokens, now: int) -> RefreshOwner | None:
        """Issue successors for a refresh token, which stays valid until one of them is used.

        Successors made earlier and not used since are gone. None if the token is not known.
        """

        async def work(txn: Transaction) -> RefreshOwner | None:
            row = await txn.fetch_one("tokens_lock_refresh", _LOCK_REFRESH, (refresh_hash,))
            if row is None:
                return None
            user_id, device_id, replaces, deactivated, locked = row
            owner = RefreshOwner(user_id, device_id, deactivated, locked)
            if deactivated or locked:
                return owner
            if replaces is not None:
                await self._used_txn(txn, user_id, device_id, refresh_hash, now)
            await txn.execute("tokens_drop_successor", _DROP_UNUSED_SUCCESSOR, {"hash": refresh_hash})
            expired = (user_id, device_id, now - _KEPT_EXPIRED_MS)
            await txn.execute("tokens_drop_expired", _DROP_EXPIRED, expired)
            successor = (tokens.refresh_hash, user_id, device_id, now, refresh_hash)
            await txn.execute("tokens_add_refresh", _ADD_REFRESH, successor)
            access = (
                tokens.access_hash,
                user_id,
                device_id,
                now,
                tokens.expires_ts,
                tokens.refresh_hash,
                True,
            )
            await txn.execute("tokens_add_access", _ADD_ACCESS, access)
            return owner

        return await self._database.transaction("tokens_refresh", work)

    async def used(self, owner: TokenOwner, now: int) -> None:
        """Note the first use of a token made by a refresh: what it replaced ends.

        Older access tokens of the device keep working for `GRACE_MS` at most, for requests under way.
        """
        assert owner.refresh_hash is not None
        refresh_hash = owner.refresh_hash

        async def work(txn: Transaction) -> None:
            await self._used_txn(txn, owner.user_id, owner.device_id, refresh_hash, now)

        await self._database.transaction("tokens_used", work)

    async def _used_txn(
        self, txn: Transaction, user_id: str, device_id: str, refresh_hash: bytes, now: int
    ) -> None:
        params = {
            "user_id": user_id,
            "device_id": device_id,
            "hash": refresh_hash,
            "until": now + GRACE_MS,
        }
        await txn.execute("tokens_succeeded", _SUCCEEDED, params)
        await txn.execute("tokens_used", _USED, params)
