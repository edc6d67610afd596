# SPDX-License-Identifier: Apache-2.0
"""Dehydrated devices. Owns their table, and making and deleting the rows of devices that they are."""

from __future__ import annotations

from typing import NamedTuple

from storage.database import Database, Transaction


class DehydratedDevice(NamedTuple):
    """A device that waits for a log-in to open it; `device_data` is JSON."""

    device_id: str
    device_data: str


_GET = "SELECT device_id, device_data FROM dehydrated_devices WHERE user_id = %s"
_LOCK_USER = "SELECT 1 FROM users WHERE user_id = %s FOR NO KEY UPDATE"
_ADD_DEVICE = """
INSERT INTO devices (user_id, device_id, display_name, created_ts) VALUES (%s, %s, %s, %s)
ON CONFLICT (user_id, device_id) DO NOTHING
"""
_ADD = "INSERT INTO dehydrated_devices (user_id, device_id, device_data) VALUES (%s, %s, %s)"
# Should somebody have logged in with its name, that ends too.
_DELETE = """
WITH gone AS (
    DELETE FROM devices d USING dehydrated_devices z
    WHERE z.user_id = %s AND d.user_id = z.user_id AND d.device_id = z.device_id RETURNING d.user_id, d.device_id)
SELECT device_id, pg_notify('tokens_revoked', user_id) FROM gone
"""


class DehydratedDeviceStore:
    """Reads and writes them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, user_id: str) -> DehydratedDevice | None:
        """The user's."""
        row = await self._database.fetch_one("dehydrated_get", _GET, (user_id,))
        return None if row is None else DehydratedDevice._make(row)

    async def lock_txn(self, txn: Transaction, user_id: str) -> DehydratedDevice | None:
        """Keep other changes of the user's waiting; which there is now."""
        await txn.fetch_one("dehydrated_lock", _LOCK_USER, (user_id,))
        row = await txn.fetch_one("dehydrated_get", _GET, (user_id,))
        return None if row is None else DehydratedDevice._make(row)

    async def add_txn(
        self, txn: Transaction, user_id: str, device: DehydratedDevice, display_name: str | None, now: int
    ) -> bool:
        """Make the device of a user who has none; False if a device has that name already."""
        params = (user_id, device.device_id, display_name, now)
        if await txn.execute("dehydrated_add_device", _ADD_DEVICE, params) == 0:
            return False
        await txn.execute("dehydrated_add", _ADD, (user_id, *device))
        return True

    async def delete_txn(self, txn: Transaction, user_id: str) -> str | None:
        """Delete the user's, with its keys and messages; its id, None if there is none."""
        row = await txn.fetch_one("dehydrated_delete", _DELETE, (user_id,))
        return None if row is None else str(row[0])
