# SPDX-License-Identifier: Apache-2.0
"""Messages waiting for devices of this server's users.

Owns reading and deleting them; they are written through the stream (`write_device_messages`, migration 0027), which
also sees to it that a request is carried out once.
"""

from __future__ import annotations

from typing import NamedTuple

from storage.database import Database, Prepared


class WaitingMessage(NamedTuple):
    """One message; `message` is the JSON the device gets."""

    position: int
    message: str


_WAITING = Prepared("""
SELECT position, message FROM to_device_messages
WHERE user_id = %s AND device_id = %s AND position > %s AND position <= %s ORDER BY position LIMIT %s
""")
_DELETE = "DELETE FROM to_device_messages WHERE user_id = %s AND device_id = %s AND position <= %s"
_DONE = "SELECT 1 FROM to_device_transactions WHERE transaction = %s::uuid"
_SWEEP = "DELETE FROM to_device_transactions WHERE ts < %s"


class ToDeviceStore:
    """Reads and deletes messages."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def waiting(
        self, user_id: str, device_id: str, since: int, upto: int, limit: int
    ) -> list[WaitingMessage]:
        """The oldest messages in since < position ≤ upto, in their order."""
        rows = await self._database.fetch(
            "to_device_waiting", _WAITING, (user_id, device_id, since, upto, limit)
        )
        return [WaitingMessage._make(row) for row in rows]

    async def delete(self, user_id: str, device_id: str, upto: int) -> None:
        """Delete what a device has processed."""
        await self._database.execute("to_device_delete", _DELETE, (user_id, device_id, upto))

    async def is_done(self, transaction: str) -> bool:
        """Whether a request was carried out; `transaction` is its digest as a UUID."""
        return await self._database.fetch_one("to_device_done", _DONE, (transaction,)) is not None

    async def sweep(self, before: int) -> int:
        """Forget requests that were carried out before a time (ms since 1970)."""
        return await self._database.execute("to_device_sweep", _SWEEP, (before,))
