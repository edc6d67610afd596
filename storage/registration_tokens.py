# SPDX-License-Identifier: Apache-2.0
"""Registration tokens: who holds one may make an account.

Owns the table and the count of its uses, finished (`completed`) and under way: the sessions of
user-interactive authentication that reserved one and are not expired.
"""

from __future__ import annotations

from msgspec import Struct

from storage.database import Database, Transaction
from storage.users import SERVERS_OWN

_A_PERSON = f"NOT guest AND user_type IS DISTINCT FROM '{SERVERS_OWN}'"
_PENDING = """
(SELECT count(*) FROM uia_sessions s WHERE s.registration_token = t.token AND s.expires_ts > %(now)s)
"""
_VALID = f"""(t.expires_ts IS NULL OR t.expires_ts > %(now)s)
    AND (t.uses_allowed IS NULL OR t.completed + {_PENDING} < t.uses_allowed)
    AND NOT (t.first_account AND EXISTS (SELECT FROM users WHERE {_A_PERSON}))"""

_IS_VALID = f"SELECT t.first_account FROM registration_tokens t WHERE t.token = %(token)s AND {_VALID}"  # noqa: S608
_FIRST_ACCOUNT = f"""
SELECT t.token FROM registration_tokens t
WHERE t.first_account AND (t.expires_ts IS NULL OR t.expires_ts > %(now)s) AND t.completed < t.uses_allowed
    AND NOT EXISTS (SELECT FROM users WHERE {_A_PERSON})
ORDER BY t.created_ts LIMIT 1
"""  # noqa: S608
_ADD = """
INSERT INTO registration_tokens (token, uses_allowed, created_ts, expires_ts, first_account)
VALUES (%s, %s, %s, %s, %s) ON CONFLICT (token) DO NOTHING
"""
_LOCK = "SELECT first_account FROM registration_tokens WHERE token = %(token)s FOR UPDATE"
_RESERVE = f"""
UPDATE uia_sessions SET registration_token = %(token)s,
    completed = array_append(completed, 'm.login.registration_token')
WHERE session_id = %(session)s AND expires_ts > %(now)s AND registration_token IS NULL
    AND NOT 'm.login.registration_token' = ANY (completed)
    AND EXISTS (SELECT FROM registration_tokens t WHERE t.token = %(token)s AND {_VALID}
                AND (t.first_account OR NOT %(closed)s))
"""  # noqa: S608
_COMPLETE = """
UPDATE registration_tokens SET completed = completed + 1 WHERE token = %s RETURNING first_account
"""
_FIRST_ACCOUNT_LOCK = "SELECT pg_advisory_xact_lock(hashtext('lares first account token'))"
_NOBODY = f"SELECT NOT EXISTS (SELECT FROM users WHERE {_A_PERSON})"  # noqa: S608


class NewRegistrationToken(Struct, frozen=True, kw_only=True):
    """A token to make. `uses_allowed` and `expires_ts` (ms since 1970): None is without end."""

    token: str
    uses_allowed: int | None = None
    expires_ts: int | None = None


class RegistrationTokenStore:
    """Makes registration tokens and counts their uses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, token: NewRegistrationToken, now: int) -> bool:
        """Make a token; False if there is one of that name."""
        row = (token.token, token.uses_allowed, now, token.expires_ts, False)
        return await self._database.execute("registration_tokens_add", _ADD, row) == 1

    async def is_valid(self, token: str, now: int, *, closed: bool) -> bool:
        """Whether another account may be begun with the token; while `closed`, only the first one."""
        params = {"token": token, "now": now}
        row = await self._database.fetch_one("registration_tokens_valid", _IS_VALID, params)
        return row is not None and (bool(row[0]) or not closed)

    async def reserve(self, token: str, session_id: str, now: int, *, closed: bool) -> bool:
        """Complete the token's stage in an authentication session, holding one use until that expires.

        False if the token allows no further use, or the session is gone or has the stage behind it.
        """
        params = {"token": token, "session": session_id, "now": now, "closed": closed}

        async def work(txn: Transaction) -> bool:
            # The lock makes simultaneous reservations see each other's.
            if await txn.fetch_one("registration_tokens_lock", _LOCK, params) is None:
                return False
            return await txn.execute("registration_tokens_reserve", _RESERVE, params) == 1

        return await self._database.transaction("registration_tokens_reserve", work)

    async def complete_txn(self, txn: Transaction, token: str) -> bool:
        """Count a finished use (its session must end in the same transaction); whether it makes an administrator."""
        row = await txn.fetch_one("registration_tokens_complete", _COMPLETE, (token,))
        return row is not None and bool(row[0])

    async def first_account_token(self, now: int) -> str | None:
        """The token for the first account, while unused and nobody has one."""
        row = await self._database.fetch_one("registration_tokens_first", _FIRST_ACCOUNT, {"now": now})
        return None if row is None else row[0]

    async def ensure_first_account_token(self, token: str, now: int) -> str | None:
        """The token for the first account, made of `token` if there is none; None once anybody has an account.

        Processes that start at the same time get the same answer.
        """

        async def work(txn: Transaction) -> str | None:
            await txn.fetch_one("registration_tokens_first_lock", _FIRST_ACCOUNT_LOCK)
            nobody = await txn.fetch_one("registration_tokens_nobody", _NOBODY)
            if nobody is None or not nobody[0]:
                return None
            present = await txn.fetch_one("registration_tokens_first", _FIRST_ACCOUNT, {"now": now})
            if present is not None:
                return str(present[0])
            await txn.execute("registration_tokens_add", _ADD, (token, 1, now, None, True))
            return token

        return await self._database.transaction("registration_tokens_ensure_first", work)
