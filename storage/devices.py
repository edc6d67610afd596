# SPDX-License-Identifier: Apache-2.0
"""The devices table: a user's log-ins, what they are called and when they were last seen.

Owns the rows; everything that belongs to a device references its row and is deleted with it. How often sightings
are written is decided in `homeserver/accounts/sightings.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import asdict

from storage.database import Database, JsonRows, Transaction

_COLUMNS = "device_id, display_name, created_ts, last_seen_ts, last_seen_ip, last_seen_user_agent"

_LIST = f"SELECT {_COLUMNS} FROM devices WHERE user_id = %s ORDER BY created_ts, device_id"  # noqa: S608
_GET = f"SELECT {_COLUMNS} FROM devices WHERE user_id = %s AND device_id = %s"  # noqa: S608

_PUT = """
INSERT INTO devices (user_id, device_id, display_name, created_ts) VALUES (%s, %s, %s, %s)
ON CONFLICT (user_id, device_id) DO NOTHING
"""

_RENAME = "UPDATE devices SET display_name = %s WHERE user_id = %s AND device_id = %s"

_DELETE = """
WITH gone AS (DELETE FROM devices WHERE user_id = %(user_id)s AND device_id = ANY (%(devices)s) RETURNING device_id)
SELECT array_agg(device_id), pg_notify('tokens_revoked', %(user_id)s) FROM gone
"""

# Log-ins under way share this lock: one that came before has its device by then, one that comes after finds what it
# goes by (a login token, a password) as it then is.
_LOCK_USER = "SELECT 1 FROM users WHERE user_id = %s FOR NO KEY UPDATE"
_DELETE_OTHERS = """
WITH gone AS (
    DELETE FROM devices d WHERE user_id = %(user_id)s AND device_id IS DISTINCT FROM %(kept)s
      AND NOT EXISTS (SELECT FROM dehydrated_devices z WHERE z.user_id = d.user_id AND z.device_id = d.device_id)
    RETURNING device_id),
    l AS (DELETE FROM login_tokens WHERE user_id = %(user_id)s)
SELECT array_agg(device_id), pg_notify('tokens_revoked', %(user_id)s) FROM gone
"""

# Sightings of two processes may arrive out of order: the newer one stays.
_SEEN = """
UPDATE devices d SET last_seen_ts = s.ts, last_seen_ip = s.ip, last_seen_user_agent = s.user_agent
FROM json_to_recordset(%s) AS s(user_id text, device_id text, ts bigint, ip text, user_agent text)
WHERE d.user_id = s.user_id AND d.device_id = s.device_id AND coalesce(d.last_seen_ts, 0) < s.ts
"""


class Device(Struct, frozen=True):
    """A log-in of a user."""

    device_id: str
    display_name: str | None
    created_ts: int
    last_seen_ts: int | None
    last_seen_ip: str | None
    last_seen_user_agent: str | None


class Sighting(Struct, frozen=True):
    """A device was used: when (ms), from which address, by which software."""

    user_id: str
    device_id: str
    ts: int
    ip: str
    user_agent: str


class DeviceStore:
    """Reads and changes devices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, user_id: str) -> list[Device]:
        """A user's devices, oldest first."""
        return [Device(*row) for row in await self._database.fetch("devices_list", _LIST, (user_id,))]

    async def get(self, user_id: str, device_id: str) -> Device | None:
        """One device."""
        row = await self._database.fetch_one("devices_get", _GET, (user_id, device_id))
        return None if row is None else Device(*row)

    async def put_txn(
        self, txn: Transaction, user_id: str, device_id: str, display_name: str | None, now: int
    ) -> bool:
        """Add the device; False, and nothing changed, if the user has it already."""
        return await txn.execute("devices_put", _PUT, (user_id, device_id, display_name, now)) == 1

    async def rename(self, user_id: str, device_id: str, display_name: str) -> bool:
        """Change the display name; False if there is no such device."""
        params = (display_name, user_id, device_id)
        return await self._database.execute("devices_rename", _RENAME, params) == 1

    async def delete(self, user_id: str, device_ids: Sequence[str]) -> Sequence[str]:
        """Delete devices with their tokens and tell every process; returns those that existed."""
        params = {"user_id": user_id, "devices": [*device_ids]}
        row = await self._database.fetch_one("devices_delete", _DELETE, params)
        return [] if row is None or row[0] is None else row[0]

    async def delete_others(self, user_id: str, kept: str | None) -> Sequence[str]:
        """`delete_others_txn` in a transaction of its own."""

        async def work(txn: Transaction) -> Sequence[str]:
            return await self.delete_others_txn(txn, user_id, kept)

        return await self._database.transaction("devices_delete_others", work)

    async def delete_others_txn(self, txn: Transaction, user_id: str, kept: str | None) -> Sequence[str]:
        """Delete all of a user's devices but `kept`, as `delete` does, and every login token, also those of `kept`.

        A device that is dehydrated, with which nobody is logged in, stays to be sent room keys meanwhile.
        """
        await txn.fetch_one("devices_lock_user", _LOCK_USER, (user_id,))
        row = await txn.fetch_one("devices_delete_others", _DELETE_OTHERS, {"user_id": user_id, "kept": kept})
        return [] if row is None or row[0] is None else row[0]

    async def record(self, sightings: Sequence[Sighting]) -> None:
        """Note when devices were last seen, many in one statement; devices gone meanwhile are passed over."""
        rows = JsonRows([asdict(sighting) for sighting in sightings])
        await self._database.execute("devices_seen", _SEEN, (rows,))
