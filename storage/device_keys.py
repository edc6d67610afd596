# SPDX-License-Identifier: Apache-2.0
"""Identity keys of devices: those of our devices, and what is kept of other servers' devices for reading.

Owns the table of our own keys, and the one query that reads keys of many users, wherever they are from. Devices of
other servers are written by `storage/device_lists.py`. That a change is due to be told is the table's own doing
(migration 0013).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from storage.database import Database, Prepared, Transaction


class DeviceKeys(NamedTuple):
    """One device's identity keys."""

    user_id: str
    device_id: str
    display_name: str | None
    keys: str
    """JSON object, without `unsigned`."""


_OF_USERS = Prepared("""
SELECT k.user_id, k.device_id, d.display_name, k.keys FROM device_keys k JOIN devices d USING (user_id, device_id)
WHERE k.user_id = ANY (%(local)s::text[])
UNION ALL
SELECT r.user_id, r.device_id, r.display_name, r.keys FROM remote_devices r
WHERE r.user_id = ANY (%(tracked)s::text[]) AND r.keys IS NOT NULL
""")
_ONE = """
SELECT k.user_id, k.device_id, d.display_name, k.keys FROM device_keys k JOIN devices d USING (user_id, device_id)
WHERE k.user_id = %s AND k.device_id = %s
"""
_LOCK_DEVICE = "SELECT 1 FROM devices WHERE user_id = %s AND device_id = %s FOR NO KEY UPDATE"
_PUT = """
INSERT INTO device_keys AS k (user_id, device_id, keys) VALUES (%s, %s, %s)
ON CONFLICT (user_id, device_id) DO UPDATE SET keys = excluded.keys WHERE k.keys <> excluded.keys
"""
_DEVICES_EXIST = "SELECT device_id FROM devices WHERE user_id = %s AND device_id = ANY (%s)"


class DeviceKeyStore:
    """Reads and writes identity keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_users(self, local: Sequence[str], tracked: Sequence[str] = ()) -> list[DeviceKeys]:
        """All devices with keys of our users and of users of other servers whose lists are kept, in one query."""
        params = {"local": list(local), "tracked": list(tracked)}
        rows = await self._database.fetch("device_keys_of_users", _OF_USERS, params)
        return [DeviceKeys._make(row) for row in rows]

    async def one(self, user_id: str, device_id: str) -> DeviceKeys | None:
        """The keys of one device of ours."""
        row = await self._database.fetch_one("device_keys_one", _ONE, (user_id, device_id))
        return None if row is None else DeviceKeys._make(row)

    async def existing(self, user_id: str, device_ids: Sequence[str]) -> set[str]:
        """Those of the ids that are devices of the user, with keys or without."""
        rows = await self._database.fetch("device_keys_exist", _DEVICES_EXIST, (user_id, list(device_ids)))
        return {str(row[0]) for row in rows}

    async def lock_device_txn(self, txn: Transaction, user_id: str, device_id: str) -> bool:
        """Keep other uploads for the device waiting; False if there is no such device."""
        return await txn.fetch_one("device_keys_lock", _LOCK_DEVICE, (user_id, device_id)) is not None

    async def put_txn(self, txn: Transaction, user_id: str, device_id: str, keys: str) -> bool:
        """Set the keys of a device that is locked; False if they were the same."""
        return await txn.execute("device_keys_put", _PUT, (user_id, device_id, keys)) == 1
