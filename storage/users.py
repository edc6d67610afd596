# SPDX-License-Identifier: Apache-2.0
"""The users table: who has an account on this server, with which rights and in which standing.

Owns reading and changing a user's row. Devices and tokens are other stores'; what a flag means for a request is
decided in `homeserver/accounts`. Changes that running sessions must notice tell every process so, through
`storage.tokens.REVOKED`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import orjson
from msgspec import Struct

from storage.database import Database, Transaction

Flag = Literal["admin", "locked", "suspended"]

SERVERS_OWN = "org.lares.server"
"""The `user_type` of accounts that are the server's own: nobody is behind them."""

_COLUMNS = (
    "user_id, password_hash, created_ts, admin, guest, deactivated, erased, locked, suspended, user_type"
)

_BY_IDS = f"SELECT {_COLUMNS} FROM users WHERE user_id = ANY (%s)"  # noqa: S608
_LOCK = f"SELECT {_COLUMNS} FROM users WHERE user_id = %s FOR SHARE"  # noqa: S608
_EXISTING = "SELECT user_id FROM users WHERE user_id = ANY (%s)"
_GUESTS = "SELECT user_id FROM users WHERE guest AND user_id = ANY (%s)"
_ANY = f"SELECT EXISTS (SELECT FROM users WHERE NOT guest AND user_type IS DISTINCT FROM '{SERVERS_OWN}')"  # noqa: S608

_CREATE = """
INSERT INTO users (user_id, password_hash, created_ts, admin, guest, user_type, terms_accepted)
VALUES (%(user_id)s, %(password_hash)s, %(now)s, %(admin)s, %(guest)s, %(user_type)s, %(terms)s)
ON CONFLICT (user_id) DO NOTHING
"""

_UPGRADE_GUEST = """
UPDATE users SET guest = false, password_hash = %(password_hash)s, terms_accepted = %(terms)s
WHERE user_id = %(user_id)s AND guest AND NOT deactivated
"""

# What the password before was given for must not let anybody in later.
_SET_PASSWORD = """
WITH changed AS (
        UPDATE users SET password_hash = %s WHERE user_id = %s AND NOT deactivated RETURNING user_id),
    s AS (DELETE FROM uia_sessions USING changed WHERE uia_sessions.user_id = changed.user_id),
    l AS (DELETE FROM login_tokens USING changed WHERE login_tokens.user_id = changed.user_id)
SELECT user_id FROM changed
"""  # noqa: S105
_REPLACE_HASH = "UPDATE users SET password_hash = %s WHERE user_id = %s AND password_hash = %s"

_SET_FLAG: dict[Flag, str] = {
    flag: f"""
WITH changed AS (UPDATE users SET {flag} = %s WHERE user_id = %s AND NOT deactivated RETURNING user_id)
SELECT pg_notify('tokens_revoked', user_id) FROM changed
"""  # noqa: S608
    for flag in ("admin", "locked", "suspended")
}

_DEACTIVATE = """
UPDATE users SET deactivated = true, departing = true, erased = erased OR %(erase)s, password_hash = NULL,
    admin = false, closed_ts = %(now)s, depart_ts = %(until)s
WHERE user_id = %(user_id)s AND NOT deactivated
"""
_FORGET = """
WITH d AS (DELETE FROM devices WHERE user_id = %(user_id)s),
    l AS (DELETE FROM login_tokens WHERE user_id = %(user_id)s),
    o AS (DELETE FROM openid_tokens WHERE user_id = %(user_id)s),
    f AS (DELETE FROM filters WHERE user_id = %(user_id)s),
    s AS (DELETE FROM uia_sessions WHERE user_id = %(user_id)s)
SELECT pg_notify('tokens_revoked', %(user_id)s)
"""

_CLAIM_DEPARTING = """
UPDATE users u SET depart_ts = %(until)s FROM (
    SELECT user_id FROM users WHERE departing AND coalesce(depart_ts, 0) <= %(now)s
    ORDER BY depart_ts NULLS FIRST, user_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) AS due
WHERE u.user_id = due.user_id RETURNING u.user_id, u.erased, u.closed_ts, u.depart_ts
"""
# Whoever asked meanwhile that the departure be taken up anew changed `depart_ts`, and is heeded.
_DEPARTED = """
UPDATE users SET departing = %(next)s::bigint IS NOT NULL, depart_ts = %(next)s
WHERE user_id = %(user_id)s AND depart_ts = %(claimed)s
"""
_DEPART_AGAIN = "UPDATE users SET departing = true, depart_ts = 0 WHERE user_id = %s AND deactivated"


class User(Struct, frozen=True):
    """A row of `users`. `password_hash` stays out of `repr`, and so out of logs."""

    user_id: str
    password_hash: str | None
    created_ts: int
    admin: bool
    guest: bool
    deactivated: bool
    erased: bool
    locked: bool
    suspended: bool
    user_type: str | None

    def __repr__(self) -> str:
        return f"User({self.user_id!r})"


class NewUser(Struct, frozen=True, kw_only=True):
    """What a user is created with."""

    user_id: str
    password_hash: str | None
    admin: bool = False
    guest: bool = False
    user_type: str | None = None
    terms_accepted: Mapping[str, str] | None = None
    """Policy name → version."""

    def __repr__(self) -> str:
        return f"NewUser({self.user_id!r})"


class Departure(Struct, frozen=True):
    """A deactivated user who is not yet out of everything, claimed by whoever takes that up."""

    user_id: str
    erase: bool
    closed_ts: int | None
    """When the account was closed (ms since 1970); None if it was before that was noted."""
    claimed_until: int
    """When somebody else may take it up, if it is not reported by then."""


class UserStore:
    """Reads and changes users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, user_id: str) -> User | None:
        """The user, deactivated ones included."""
        return (await self.get_all([user_id])).get(user_id)

    async def get_all(self, user_ids: Sequence[str]) -> dict[str, User]:
        """Those of the users that exist, by id."""
        rows = await self._database.fetch("users_get", _BY_IDS, (list(user_ids),))
        return {row[0]: User(*row) for row in rows}

    async def lock_txn(self, txn: Transaction, user_id: str) -> User | None:
        """The user, who stays as they are until the transaction ends."""
        row = await txn.fetch_one("users_lock", _LOCK, (user_id,))
        return None if row is None else User(*row)

    async def existing(self, user_ids: Sequence[str]) -> set[str]:
        """Which of the ids are taken, be it by deactivated users."""
        rows = await self._database.fetch("users_existing", _EXISTING, (list(user_ids),))
        return {row[0] for row in rows}

    async def guests_among(self, user_ids: Collection[str]) -> set[str]:
        """Which of them are guests of this server."""
        rows = await self._database.fetch("users_guests", _GUESTS, (list(user_ids),))
        return {str(row[0]) for row in rows}

    async def any(self) -> bool:
        """Whether anybody ever had an account here, guests and the server's own accounts aside."""
        row = await self._database.fetch_one("users_any", _ANY)
        return row is not None and bool(row[0])

    async def create_txn(self, txn: Transaction, user: NewUser, now: int) -> bool:
        """Insert; False if the id is taken."""
        return await txn.execute("users_create", _CREATE, _parameters(user, now)) == 1

    async def upgrade_guest_txn(self, txn: Transaction, user: NewUser, now: int) -> bool:
        """Make a guest a full user; False if there is no such guest."""
        return await txn.execute("users_upgrade_guest", _UPGRADE_GUEST, _parameters(user, now)) == 1

    async def set_password_txn(self, txn: Transaction, user_id: str, password_hash: str) -> bool:
        """Set the hash of an active user's password; what was authorised by the one before and not used yet ends."""
        params = (password_hash, user_id)
        return await txn.fetch_one("users_set_password", _SET_PASSWORD, params) is not None

    async def replace_hash(self, user_id: str, old: str, new: str) -> None:
        """Store another hash of the same password, unless the password was changed meanwhile."""
        await self._database.execute("users_replace_hash", _REPLACE_HASH, (new, user_id, old))

    async def set_flag(self, user_id: str, flag: Flag, value: bool) -> bool:
        """Change a right or standing of an active user and tell every process; False if there is none."""
        rows = await self._database.fetch("users_set_flag", _SET_FLAG[flag], (value, user_id))
        return bool(rows)

    async def deactivate(self, user_id: str, *, erase: bool, now: int, until: int) -> Departure | None:
        """Close the account and drop everything that logs in as it; None if it was closed before.

        The user is departing from then on, which the caller has claimed until `until` and ends by `departed`.
        """

        async def work(txn: Transaction) -> Departure | None:
            params = {"user_id": user_id, "erase": erase, "now": now, "until": until}
            if await txn.execute("users_deactivate", _DEACTIVATE, params) == 0:
                return None
            await txn.fetch_one("users_forget", _FORGET, params)
            return Departure(user_id, erase, now, until)

        return await self._database.transaction("users_deactivate", work)

    async def forget(self, user_id: str) -> None:
        """Drop once more what `deactivate` dropped: requests that were under way may have written some of it since."""
        await self._database.fetch_one("users_forget", _FORGET, {"user_id": user_id}, retry=False)

    async def claim_departing(self, now: int, until: int, limit: int) -> list[Departure]:
        """Up to `limit` users whose departure is due; until `until` it is nobody else's. Those due longest first."""
        params = {"now": now, "until": until, "limit": limit}
        rows = await self._database.fetch("users_claim_departing", _CLAIM_DEPARTING, params, retry=False)
        return [Departure(*row) for row in rows]

    async def departed(self, departure: Departure, *, again_ts: int | None) -> None:
        """Note that the user left everything, and is to do so again at `again_ts`, or (None) is done with it.

        No effect once it is somebody else's, or is wanted again already.
        """
        params = {
            "user_id": departure.user_id,
            "claimed": departure.claimed_until,
            "next": again_ts,
        }
        await self._database.execute("users_departed", _DEPARTED, params)

    async def depart_again(self, user_id: str) -> bool:
        """Whether the user's account is closed; if so their departure is due once more, at once."""
        return await self._database.execute("users_depart_again", _DEPART_AGAIN, (user_id,)) == 1


def _parameters(user: NewUser, now: int) -> dict[str, Any]:
    terms = user.terms_accepted
    return {
        "user_id": user.user_id,
        "password_hash": user.password_hash,
        "now": now,
        "admin": user.admin,
        "guest": user.guest,
        "user_type": user.user_type,
        "terms": None if terms is None else orjson.dumps(dict(terms)).decode(),
    }
