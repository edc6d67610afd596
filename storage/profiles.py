# SPDX-License-Identifier: Apache-2.0
"""The profiles table: what users of this server say about themselves. Owns reading and writing whole profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from msgspec import Struct, field

from storage.database import Database, Prepared, Transaction

_GET = Prepared(
    """SELECT u.deactivated, p.displayname, p.avatar_url, p.fields
    FROM users u LEFT JOIN profiles p USING (user_id) WHERE u.user_id = %s"""
)
_NAMES = "SELECT user_id, displayname, avatar_url FROM profiles WHERE user_id = ANY (%s)"
_MAKE = "INSERT INTO profiles (user_id) VALUES (%s) ON CONFLICT DO NOTHING"
_LOCK = "SELECT displayname, avatar_url, fields FROM profiles WHERE user_id = %s FOR UPDATE"
_PUT = """
INSERT INTO profiles (user_id, displayname, avatar_url, fields)
VALUES (%(user_id)s, %(displayname)s, %(avatar_url)s, %(fields)s)
ON CONFLICT (user_id) DO UPDATE SET displayname = excluded.displayname, avatar_url = excluded.avatar_url,
    fields = excluded.fields
"""
_DELETE = "DELETE FROM profiles WHERE user_id = %s"


class Profile(Struct, frozen=True):
    """A user's profile. `fields` are those besides the two that rooms show."""

    displayname: str | None = None
    avatar_url: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


class ProfileStore:
    """Keeps profiles."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, user_id: str) -> Profile | None:
        """The profile of a user of this server, empty if they set nothing; None for whom there is no account (more)."""
        row = await self._database.fetch_one("profiles_get", _GET, (user_id,))
        return None if row is None or row[0] else _profile(row[1:])

    async def names(self, user_ids: Sequence[str]) -> dict[str, tuple[str | None, str | None]]:
        """Display name and avatar URL, for those of the users who have a profile."""
        rows = await self._database.fetch("profiles_names", _NAMES, (list(user_ids),))
        return {str(user_id): (name, avatar) for user_id, name, avatar in rows}

    async def lock_txn(self, txn: Transaction, user_id: str) -> Profile:
        """The profile, which nobody else changes until the transaction ends."""
        # Two statements, so that the second sees the row that somebody else made while the first waited.
        await txn.execute("profiles_make", _MAKE, (user_id,))
        row = await txn.fetch_one("profiles_lock", _LOCK, (user_id,))
        return Profile() if row is None else _profile(row)

    async def put_txn(self, txn: Transaction, user_id: str, profile: Profile) -> None:
        """Set the whole profile."""
        params = {
            "user_id": user_id,
            "displayname": profile.displayname,
            "avatar_url": profile.avatar_url,
            "fields": orjson.dumps(profile.fields).decode(),
        }
        await txn.execute("profiles_put", _PUT, params)

    async def delete_txn(self, txn: Transaction, user_id: str) -> None:
        await txn.execute("profiles_delete", _DELETE, (user_id,))


def _profile(row: Sequence[Any]) -> Profile:
    displayname, avatar_url, fields = row
    return Profile(displayname, avatar_url, orjson.loads(fields) if fields else {})
