# SPDX-License-Identifier: Apache-2.0
"""The presence table, and in which rooms people are who care for each other's presence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson

from storage.database import Database

_GET = "SELECT user_id, status_msg, last_active_ts FROM presence WHERE user_id = ANY (%s)"
_ONLINE = "SELECT user_id, status_msg, last_active_ts FROM presence WHERE online"
_SET_STATUS = """
INSERT INTO presence (user_id, status_msg, last_active_ts) VALUES (%s, %s, %s)
ON CONFLICT (user_id) DO UPDATE SET status_msg = excluded.status_msg, last_active_ts = excluded.last_active_ts
"""
_PUT = """
INSERT INTO presence AS p (user_id, last_active_ts, online)
SELECT user_id, last_active_ts, online
FROM json_to_recordset(%s) AS x(user_id text, last_active_ts bigint, online boolean) JOIN users u USING (user_id)
ON CONFLICT (user_id) DO UPDATE SET online = excluded.online,
    last_active_ts = greatest(p.last_active_ts, excluded.last_active_ts)
"""
_DELETE = "DELETE FROM presence WHERE user_id = %s"
_JOINED = """
SELECT user_id, array_agg(room), array_agg(since) FROM memberships
WHERE user_id = ANY (%s) AND until IS NULL AND membership = 'join' GROUP BY user_id
"""
_MEMBERS = """
SELECT DISTINCT user_id FROM memberships WHERE room = ANY (%s::bigint[]) AND until IS NULL AND membership = 'join'
"""


class KeptPresence(NamedTuple):
    """What is kept of a user's presence. `last_active_ts` in milliseconds since 1970."""

    user_id: str
    status_msg: str | None
    last_active_ts: int


class SeenUser(NamedTuple):
    """What is to be kept."""

    user_id: str
    last_active_ts: int
    online: bool


class PresenceStore:
    """Keeps what outlives presence."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, user_ids: Sequence[str]) -> dict[str, KeptPresence]:
        """What is kept of those of the users of whom anything is."""
        rows = await self._database.fetch("presence_get", _GET, (list(user_ids),))
        return {row[0]: KeptPresence._make(row) for row in rows}

    async def online(self) -> list[KeptPresence]:
        """Users of whom others may have been told that they are about."""
        return [KeptPresence._make(row) for row in await self._database.fetch("presence_online", _ONLINE)]

    async def set_status(self, user_id: str, status_msg: str | None, now: int) -> None:
        """Keep a user's status message."""
        await self._database.execute("presence_set_status", _SET_STATUS, (user_id, status_msg, now))

    async def put(self, users: Iterable[SeenUser]) -> None:
        """Keep when users were active last and whether they are about."""
        rows = orjson.dumps([user._asdict() for user in users]).decode()
        await self._database.execute("presence_put", _PUT, (rows,))

    async def delete(self, user_id: str) -> None:
        """Forget a user."""
        await self._database.execute("presence_delete", _DELETE, (user_id,))

    async def joined_users(self, rooms: Sequence[int]) -> list[str]:
        """Who is joined to any of the rooms, by key."""
        rows = await self._database.fetch("presence_joined_users", _MEMBERS, (list(rooms),))
        return [str(row[0]) for row in rows]

    async def joined_rooms(self, user_ids: Sequence[str]) -> dict[str, dict[int, int]]:
        """The rooms each user is joined to, by key, with the position of the join; those in none are absent."""
        rows = await self._database.fetch("presence_joined_rooms", _JOINED, (list(user_ids),))
        return {str(user_id): dict(zip(rooms, since, strict=True)) for user_id, rooms, since in rows}
