# SPDX-License-Identifier: Apache-2.0
"""What is dropped when an account is closed: the user's identity, the signatures it made, its backups of room keys.

Devices with their keys and messages go with the account's rows. Nobody can come back to use the rest: a backup is
opened by a key that only the user has, and an identity without devices vouches for nobody.
"""

from __future__ import annotations

from homeserver.devices.lists import DeviceLists
from storage.cross_signing import CrossSigningStore
from storage.database import Database, Transaction
from storage.key_backups import KeyBackupStore


class KeyDeparture:
    """Drops keys of users who left for good."""

    def __init__(
        self,
        *,
        database: Database,
        cross_signing: CrossSigningStore,
        backups: KeyBackupStore,
        lists: DeviceLists,
    ) -> None:
        self._database = database
        self._cross_signing = cross_signing
        self._backups = backups
        self._lists = lists

    async def depart(self, user_id: str, *, erase: bool) -> None:
        """Drop what is left of the user's keys, whether erasure was asked for or not, and have it told."""

        async def work(txn: Transaction) -> None:
            await self._backups.lock_txn(txn, user_id)
            await self._backups.forget_txn(txn, user_id)
            if await self._cross_signing.forget_txn(txn, user_id):
                await self._cross_signing.due_txn(txn, user_id, [""])

        await self._database.transaction("keys_depart", work)
        await self._lists.settle((user_id,))
