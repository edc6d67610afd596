# SPDX-License-Identifier: Apache-2.0
"""Server-side backups of room keys. Owns both tables, and which of two keys for a session is the better one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from storage.database import Database, JsonRows, Transaction


class Backup(Struct, frozen=True):
    """One backup. `auth_data` is JSON."""

    version: int
    algorithm: str
    auth_data: str
    etag: int
    count: int


class BackedUpKey(NamedTuple):
    """The key of a session; `session_data` is JSON."""

    room_id: str
    session_id: str
    first_message_index: int
    forwarded_count: int
    is_verified: bool
    session_data: str


_LOCK_USER = "SELECT 1 FROM users WHERE user_id = %s FOR NO KEY UPDATE"
_CREATE = """
INSERT INTO key_backups (user_id, version, algorithm, auth_data)
SELECT %(user_id)s, coalesce(max(version), 0) + 1, %(algorithm)s, %(auth_data)s
FROM key_backups WHERE user_id = %(user_id)s RETURNING version
"""
_GET = """
SELECT version, algorithm, auth_data, etag,
    (SELECT count(*) FROM backed_up_keys k WHERE k.user_id = b.user_id AND k.version = b.version)
FROM key_backups b WHERE user_id = %(user_id)s AND NOT deleted
  AND version = coalesce(%(version)s::bigint,
    (SELECT max(version) FROM key_backups WHERE user_id = %(user_id)s AND NOT deleted))
"""
_UPDATE = """
UPDATE key_backups SET auth_data = %s WHERE user_id = %s AND version = %s AND NOT deleted AND algorithm = %s
"""
_DELETE = """
WITH emptied AS (DELETE FROM backed_up_keys WHERE user_id = %(user_id)s AND version = %(version)s)
UPDATE key_backups SET deleted = true, auth_data = '{}' WHERE user_id = %(user_id)s AND version = %(version)s AND NOT
deleted
"""
_FORGET = "DELETE FROM key_backups WHERE user_id = %s"
_COUNT = "SELECT count(*) FROM key_backups WHERE user_id = %s AND NOT deleted"
# The specification's order: verified ones, then those that reach further back, then those forwarded less often.
_PUT = """
INSERT INTO backed_up_keys AS k (user_id, version, room_id, session_id, first_message_index, forwarded_count,
is_verified,
    session_data)
SELECT %s, %s, x.* FROM json_to_recordset(%s) AS x(room_id text, session_id text, first_message_index bigint,
    forwarded_count bigint, is_verified boolean, session_data text)
ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET first_message_index = excluded.first_message_index,
    forwarded_count = excluded.forwarded_count, is_verified = excluded.is_verified, session_data = excluded.session_data
WHERE (NOT excluded.is_verified, excluded.first_message_index, excluded.forwarded_count)
    < (NOT k.is_verified, k.first_message_index, k.forwarded_count)
"""
_KEYS = """
SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data FROM backed_up_keys
WHERE user_id = %(user_id)s AND version = %(version)s AND (%(room_id)s::text IS NULL OR room_id = %(room_id)s)
  AND (%(session_id)s::text IS NULL OR session_id = %(session_id)s)
"""
_REMOVE = """
DELETE FROM backed_up_keys
WHERE user_id = %(user_id)s AND version = %(version)s AND (%(room_id)s::text IS NULL OR room_id = %(room_id)s)
  AND (%(session_id)s::text IS NULL OR session_id = %(session_id)s)
"""
_CHANGED = "UPDATE key_backups SET etag = etag + 1 WHERE user_id = %s AND version = %s"


class KeyBackupStore:
    """Keeps backups."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lock_txn(self, txn: Transaction, user_id: str) -> None:
        """Keep other changes of the user's backups waiting."""
        await txn.fetch_one("key_backups_lock", _LOCK_USER, (user_id,))

    async def create_txn(self, txn: Transaction, user_id: str, algorithm: str, auth_data: str) -> int:
        """A new backup, the current one from now on; its version."""
        params = {"user_id": user_id, "algorithm": algorithm, "auth_data": auth_data}
        row = await txn.fetch_one("key_backups_create", _CREATE, params)
        assert row is not None
        return int(row[0])

    async def count_txn(self, txn: Transaction, user_id: str) -> int:
        """How many backups the user has."""
        row = await txn.fetch_one("key_backups_count", _COUNT, (user_id,))
        return 0 if row is None else int(row[0])

    async def get(self, user_id: str, version: int | None) -> Backup | None:
        """A backup, the current one for None."""
        params = {"user_id": user_id, "version": version}
        row = await self._database.fetch_one("key_backups_get", _GET, params)
        return None if row is None else Backup(*row)

    async def get_txn(self, txn: Transaction, user_id: str, version: int | None) -> Backup | None:
        """As `get`, within a transaction."""
        row = await txn.fetch_one("key_backups_get", _GET, {"user_id": user_id, "version": version})
        return None if row is None else Backup(*row)

    async def update(self, user_id: str, version: int, algorithm: str, auth_data: str) -> bool:
        """Change a backup's auth data; False if there is none of that algorithm."""
        params = (auth_data, user_id, version, algorithm)
        return await self._database.execute("key_backups_update", _UPDATE, params) == 1

    async def delete(self, user_id: str, version: int) -> bool:
        """Delete a backup with its keys; False if there is none."""
        params = {"user_id": user_id, "version": version}
        return await self._database.execute("key_backups_delete", _DELETE, params) == 1

    async def forget_txn(self, txn: Transaction, user_id: str) -> None:
        """Delete all backups of a user, the numbers of deleted ones too."""
        await txn.execute("key_backups_forget", _FORGET, (user_id,))

    async def put_keys_txn(
        self, txn: Transaction, user_id: str, version: int, keys: Sequence[BackedUpKey]
    ) -> None:
        """Keep keys; where there is one for the session, the better one stays."""
        rows = JsonRows([key._asdict() for key in keys])
        if await txn.execute("key_backups_put", _PUT, (user_id, version, rows)):
            await txn.execute("key_backups_changed", _CHANGED, (user_id, version))

    async def keys(
        self, user_id: str, version: int, room_id: str | None, session_id: str | None
    ) -> list[BackedUpKey]:
        """The keys of a backup, of a room or of a session."""
        params = {"user_id": user_id, "version": version, "room_id": room_id, "session_id": session_id}
        rows = await self._database.fetch("key_backups_keys", _KEYS, params)
        return [BackedUpKey._make(row) for row in rows]

    async def remove_keys_txn(
        self, txn: Transaction, user_id: str, version: int, room_id: str | None, session_id: str | None
    ) -> None:
        """Delete them."""
        params = {"user_id": user_id, "version": version, "room_id": room_id, "session_id": session_id}
        if await txn.execute("key_backups_remove", _REMOVE, params):
            await txn.execute("key_backups_changed", _CHANGED, (user_id, version))
