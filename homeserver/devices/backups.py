# SPDX-License-Identifier: Apache-2.0
"""Server-side backups of room keys. Client-server API, "Server-side key backups".

Owns which backup may be written to (the current one) and the limits. What is in a key only clients can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from msgspec import Struct

from homeserver.devices.backup_reading import MOST_BYTES as ANSWER_BYTES
from homeserver.devices.backup_reading import BackupReader
from homeserver.errors import InvalidParam, NotFound, TooLarge, WrongRoomKeysVersion
from storage.database import Database, Transaction
from storage.key_backups import BackedUpKey, Backup, Change, KeyBackupStore

MOST_BACKUPS: Final = 100
MOST_KEYS: Final = 500_000
"""Of one backup,"""
MOST_BYTES: Final = ANSWER_BYTES
"""and of its keys together, no more than can be given back: 200,000 as clients make them, of 1 KiB each."""
MOST_BYTES_OF_USER: Final = 4 * MOST_BYTES
"""Of the backups of one user together: clients that begin a new one may leave the last."""
MAX_AUTH_DATA: Final = 65_536
MAX_KEY_BYTES: Final = 65_536
MAX_ID: Final = 255


class Summary(Struct, frozen=True):
    """What a change of keys leaves."""

    etag: int
    count: int


class KeyBackups:
    """Keeps backups for users."""

    def __init__(self, database: Database, store: KeyBackupStore) -> None:
        self._database = database
        self._store = store
        self._reader = BackupReader(store)

    async def create(self, user_id: str, algorithm: str, auth_data: Mapping[str, Any]) -> int:
        """A new backup, the current one from now on; its version. Raises TooLarge."""
        encoded = _auth_data(algorithm, auth_data)

        async def work(txn: Transaction) -> int:
            await self._store.lock_txn(txn, user_id)
            if await self._store.count_txn(txn, user_id) >= MOST_BACKUPS:
                raise TooLarge(f"A user has at most {MOST_BACKUPS} backups: delete one first")
            return await self._store.create_txn(txn, user_id, algorithm, encoded)

        return await self._database.transaction("key_backup_create", work)

    async def get(self, user_id: str, version: str | None = None) -> Backup:
        """A backup, the current one for None. Raises NotFound."""
        backup = await self._store.get(user_id, None if version is None else _number(version))
        if backup is None:
            raise NotFound("There is no such backup" if version else "No current backup version")
        return backup

    async def update(self, user_id: str, version: str, algorithm: str, auth_data: Mapping[str, Any]) -> None:
        """Change a backup's auth data. Raises NotFound, and InvalidParam for another algorithm."""
        backup = await self.get(user_id, version)
        if backup.algorithm != algorithm:
            raise InvalidParam("The algorithm of a backup cannot be changed")
        if not await self._store.update(user_id, backup.version, algorithm, _auth_data(algorithm, auth_data)):
            raise NotFound("There is no such backup")

    async def delete(self, user_id: str, version: str) -> None:
        """Delete a backup with its keys. Raises NotFound."""
        number = _number(version)

        async def work(txn: Transaction) -> bool:
            await self._store.lock_txn(txn, user_id)
            return await self._store.delete_txn(txn, user_id, number)

        if not await self._database.transaction("key_backup_delete", work):
            raise NotFound("There is no such backup")

    async def put(self, user_id: str, version: str, keys: Sequence[BackedUpKey]) -> Summary:
        """Keep keys in the current backup. Raises NotFound, TooLarge, and WrongRoomKeysVersion for another one."""
        for key in keys:
            if len(key.session_data) > MAX_KEY_BYTES or max(len(key.room_id), len(key.session_id)) > MAX_ID:
                raise TooLarge("The key of a session is too large")

        async def work(txn: Transaction) -> Summary:
            await self._store.lock_txn(txn, user_id)
            current = await self._store.get_txn(txn, user_id, None)
            if current is None:
                raise NotFound("No current backup version")
            if str(current.version) != version:
                raise WrongRoomKeysVersion(str(current.version))
            change = keys and await self._store.put_keys_txn(txn, user_id, current.version, keys)
            if not change:
                return Summary(current.etag, current.count)
            _check_growth(current, change)
            return Summary(change.etag, change.count)

        return await self._database.transaction("key_backup_put", work)

    async def key(self, user_id: str, version: str, room_id: str, session_id: str) -> bytes:
        """The key of a session, encoded. Raises NotFound if there is no such key or backup."""
        backup = await self.get(user_id, version)
        found = await self._reader.key(user_id, backup.version, room_id, session_id)
        if found is None:
            raise NotFound("There is no such key")
        return found

    async def keys(self, user_id: str, version: str, room_id: str | None = None) -> bytes:
        """The keys of a backup or of a room, encoded as they are answered. Raises NotFound if there is no such backup,
        LimitExceeded and TooLarge."""
        backup = await self.get(user_id, version)
        return await self._reader.keys(user_id, backup.version, room_id)

    async def remove(
        self, user_id: str, version: str, room_id: str | None = None, session_id: str | None = None
    ) -> Summary:
        """Delete them. Raises NotFound if there is no such backup."""
        number = _number(version)

        async def work(txn: Transaction) -> Summary:
            await self._store.lock_txn(txn, user_id)
            backup = await self._store.get_txn(txn, user_id, number)
            if backup is None:
                raise NotFound("There is no such backup")
            change = await self._store.remove_keys_txn(txn, user_id, number, room_id, session_id)
            return Summary(*(backup.etag, backup.count) if change is None else (change.etag, change.count))

        return await self._database.transaction("key_backup_remove", work)


def _check_growth(before: Backup, after: Change) -> None:
    """What is beyond the bounds already may become smaller. Raises TooLarge."""
    if after.count > max(MOST_KEYS, before.count):
        raise TooLarge(f"A backup has at most {MOST_KEYS} keys")
    if after.bytes > before.bytes and (after.bytes > MOST_BYTES or after.bytes_of_all > MOST_BYTES_OF_USER):
        raise TooLarge(
            "The backup is full" if after.bytes > MOST_BYTES else "The backups are full: delete one"
        )


def _number(version: str) -> int:
    """Raises NotFound for what no backup is called."""
    if not (version.isascii() and version.isdigit() and len(version) <= 18):
        raise NotFound("There is no such backup")
    return int(version)


def _auth_data(algorithm: str, auth_data: Mapping[str, Any]) -> str:
    encoded = orjson.dumps(auth_data)
    if len(encoded) > MAX_AUTH_DATA or len(algorithm) > MAX_ID:
        raise TooLarge("The auth data of a backup is too large")
    return encoded.decode()
