# SPDX-License-Identifier: Apache-2.0
"""Server-side backups of room keys. Owns both tables, and which of two keys for a session is the better one.

How many keys a backup has, and how large they are, the database itself keeps beside it (triggers, migration 0035).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from storage.database import Database, JsonRows, Transaction

PORTION: Final = 1000
"""Keys that are read at once,"""
PORTION_BYTES: Final = 2**20
"""or so many bytes of session data, and one key: some ten milliseconds of the database's time, and one of ours."""


class Backup(Struct, frozen=True):
    """One backup. `auth_data` is JSON, `bytes` about what an answer with all its keys takes."""

    version: int
    algorithm: str
    auth_data: str
    etag: int
    count: int
    bytes: int


class Change(Struct, frozen=True):
    """What a change of keys left: of the backup, and `bytes_of_all` of the user's backups together."""

    etag: int
    count: int
    bytes: int
    bytes_of_all: int


class BackedUpKey(NamedTuple):
    """The key of a session; `session_data` is JSON."""

    room_id: str
    session_id: str
    first_message_index: int
    forwarded_count: int
    is_verified: bool
    session_data: str


class Place(NamedTuple):
    """Of a key in the order of its backup."""

    room_id: str
    session_id: str


class RoomPortion(NamedTuple):
    """Keys of one room that follow each other: the last one's session, and the members of a JSON object."""

    room_id: str
    last_session_id: str
    keys: int
    session_bytes: int
    members: str


_LOCK_USER = "SELECT 1 FROM users WHERE user_id = %s FOR NO KEY UPDATE"
_CREATE = """
INSERT INTO key_backups (user_id, version, algorithm, auth_data)
SELECT %(user_id)s, coalesce(max(version), 0) + 1, %(algorithm)s, %(auth_data)s
FROM key_backups WHERE user_id = %(user_id)s RETURNING version
"""
_GET = """
SELECT version, algorithm, auth_data, etag, keys, bytes FROM key_backups WHERE user_id = %(user_id)s AND NOT deleted
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
_ENCODED = """
concat('{"first_message_index":', first_message_index, ',"forwarded_count":', forwarded_count,
    ',"is_verified":', to_json(is_verified), ',"session_data":', session_data, '}')
"""
_KEY = f"""
SELECT {_ENCODED} FROM backed_up_keys WHERE user_id = %s AND version = %s AND room_id = %s AND session_id = %s
"""  # noqa: S608
# What a key weighs is known without reading its text, so that a portion ends before more is read than it may have.
_PORTION = f"""
SELECT room_id, max(session_id), count(*), sum(size)::bigint,
    string_agg(concat(to_json(session_id), ':', {_ENCODED}), ',')
FROM (
    SELECT room_id, session_id, first_message_index, forwarded_count, is_verified, session_data,
        octet_length(session_data) AS size,
        sum(octet_length(session_data)) OVER (ORDER BY room_id, session_id ROWS UNBOUNDED PRECEDING) AS upto
    FROM backed_up_keys
    WHERE user_id = %(user_id)s AND version = %(version)s AND (%(room_id)s::text IS NULL OR room_id = %(room_id)s)
      AND (%(after_room)s::text IS NULL OR (room_id, session_id) > (%(after_room)s, %(after_session)s))
    ORDER BY room_id, session_id LIMIT {PORTION}
) AS k
WHERE upto - size < {PORTION_BYTES} GROUP BY room_id ORDER BY room_id
"""  # noqa: S608
_REMOVE = """
DELETE FROM backed_up_keys
WHERE user_id = %(user_id)s AND version = %(version)s AND (%(room_id)s::text IS NULL OR room_id = %(room_id)s)
  AND (%(session_id)s::text IS NULL OR session_id = %(session_id)s)
"""
_CHANGED = """
UPDATE key_backups b SET etag = etag + 1 WHERE user_id = %s AND version = %s
RETURNING etag, keys, bytes,
    (SELECT coalesce(sum(o.bytes), 0)::bigint FROM key_backups o WHERE o.user_id = b.user_id AND NOT o.deleted)
"""


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

    async def delete_txn(self, txn: Transaction, user_id: str, version: int) -> bool:
        """Delete a backup with its keys; False if there is none."""
        params = {"user_id": user_id, "version": version}
        return await txn.execute("key_backups_delete", _DELETE, params) == 1

    async def forget_txn(self, txn: Transaction, user_id: str) -> None:
        """Delete all backups of a user, the numbers of deleted ones too."""
        await txn.execute("key_backups_forget", _FORGET, (user_id,))

    async def put_keys_txn(
        self, txn: Transaction, user_id: str, version: int, keys: Sequence[BackedUpKey]
    ) -> Change | None:
        """Keep keys; where there is one for the session, the better one stays. None if nothing changed by it."""
        rows = JsonRows([key._asdict() for key in keys])
        if not await txn.execute("key_backups_put", _PUT, (user_id, version, rows)):
            return None
        return await self._changed_txn(txn, user_id, version)

    async def remove_keys_txn(
        self, txn: Transaction, user_id: str, version: int, room_id: str | None, session_id: str | None
    ) -> Change | None:
        """Delete them. None if there were none."""
        params = {"user_id": user_id, "version": version, "room_id": room_id, "session_id": session_id}
        if not await txn.execute("key_backups_remove", _REMOVE, params):
            return None
        return await self._changed_txn(txn, user_id, version)

    async def _changed_txn(self, txn: Transaction, user_id: str, version: int) -> Change:
        row = await txn.fetch_one("key_backups_changed", _CHANGED, (user_id, version))
        assert row is not None, "keys have a backup"
        return Change(*row)

    async def key(self, user_id: str, version: int, room_id: str, session_id: str) -> str | None:
        """The key of a session, as JSON."""
        row = await self._database.fetch_one("key_backups_key", _KEY, (user_id, version, room_id, session_id))
        return None if row is None else str(row[0])

    async def portion(
        self, user_id: str, version: int, room_id: str | None, after: Place | None
    ) -> tuple[list[RoomPortion], Place | None]:
        """Keys of a backup or of a room, from after a place on; and that of the last one if there may be more."""
        after_room, after_session = after or (None, None)
        params = {
            "user_id": user_id,
            "version": version,
            "room_id": room_id,
            "after_room": after_room,
            "after_session": after_session,
        }
        rows = await self._database.fetch("key_backups_portion", _PORTION, params)
        found = [RoomPortion._make(row) for row in rows]
        full = sum(each.keys for each in found) >= PORTION or (
            sum(each.session_bytes for each in found) >= PORTION_BYTES
        )
        return found, Place(found[-1].room_id, found[-1].last_session_id) if full else None
