# SPDX-License-Identifier: Apache-2.0
"""Telling all processes, this one too, by Postgres' NOTIFY. Hearing is `Database.listen`.

For what is not stored: a notification reaches the processes that listen now, and nobody later.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.database import Database

_NOTIFY = "SELECT count(pg_notify(%s, payload)) FROM unnest(%s::text[]) AS payload"
_NOTIFY_EACH = (
    "SELECT count(pg_notify(channel, payload)) FROM unnest(%s::text[], %s::text[]) AS n(channel, payload)"
)


class NotificationStore:
    """Sends notifications. A payload is below 8,000 bytes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def notify(self, channel: str, payload: str) -> None:
        """Send one."""
        await self.notify_all(channel, (payload,))

    async def notify_all(self, channel: str, payloads: Sequence[str]) -> None:
        """Send several, in their order."""
        await self._database.fetch_one("notify", _NOTIFY, (channel, list(payloads)), retry=False)

    async def notify_each(self, notifications: Sequence[tuple[str, str]]) -> None:
        """Send several of (channel, payload), in their order, all or none."""
        channels, payloads = zip(*notifications, strict=True)
        await self._database.fetch_one("notify", _NOTIFY_EACH, (list(channels), list(payloads)), retry=False)
