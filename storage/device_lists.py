# SPDX-License-Identifier: Apache-2.0
"""Whose list of devices changed when, who shares rooms with whom, and the lists kept of users of other servers.

Owns `remote_device_lists`, `remote_devices` and the announcements to other servers; positions are written through the
stream (`write_device_lists`, migration 0013).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from storage.database import Database, JsonRows, Prepared, Transaction

CHANNEL = "devices"
"""Notifications of what moved; see `homeserver/devices/news.py`."""
DUES = "device_list_dues"
"""Notifications that something is due to be told of the user who is the payload."""


class Sharing(NamedTuple):
    """Whether two users shared a room at the ends of a stretch of the stream."""

    user_id: str
    before: bool
    after: bool
    throughout: bool
    """In one room, all the time."""


class RemoteDevice(NamedTuple):
    """A device of a user of another server."""

    device_id: str
    display_name: str | None
    keys: str | None


class TrackedList(Struct, frozen=True):
    """What is kept of a remote user's list."""

    stream_id: int | None
    stale: bool
    epoch: int
    """Grows with all that happens to the list: what was asked for before may be without that."""


class Announcement(NamedTuple):
    """A change that other servers are to be told of, with the device as it is now."""

    position: int
    user_id: str
    device_id: str
    """Empty: the cross-signing keys."""
    stream_id: int | None
    display_name: str | None
    keys: str | None
    """None: the device is gone, or has no keys any more."""


_CHANGED = Prepared("""
SELECT l.user_id FROM device_lists l WHERE l.position > %(since)s AND (
    l.user_id = %(user_id)s OR EXISTS (SELECT FROM memberships m
        WHERE m.user_id = l.user_id AND m.until IS NULL AND m.membership = 'join' AND m.room = ANY
        (%(rooms)s::bigint[])))
UNION SELECT s.target_id FROM user_signatures s WHERE s.user_id = %(user_id)s AND s.position > %(since)s
""")

# `mine` are the user's stays that touch the stretch; `met` everybody whose standing towards the user may differ between
# its ends: who came or went in rooms that moved, and all in rooms the user came into or left. Who was in one of the
# user's rooms but never at the same time (`since` is not below `until`) is told of, too: they share none.
_SHARING = Prepared("""
WITH mine AS MATERIALIZED (
    SELECT room, since, until FROM memberships
    WHERE user_id = %(user_id)s AND membership = 'join' AND since <= %(upto)s AND (until IS NULL OR until > %(since)s)
), met AS MATERIALIZED (
    SELECT m.user_id FROM memberships m
    WHERE m.room = ANY (%(rooms)s::bigint[]) AND m.membership = 'join' AND m.since > %(since)s AND m.since <= %(upto)s
    UNION
    SELECT m.user_id FROM memberships m
    WHERE m.room = ANY (%(rooms)s::bigint[]) AND m.membership = 'join' AND m.until > %(since)s AND m.until <= %(upto)s
    UNION
    SELECT m.user_id FROM mine JOIN memberships m USING (room)
    WHERE (mine.since > %(since)s OR mine.until <= %(upto)s)
      AND m.membership = 'join' AND m.since <= %(upto)s AND (m.until IS NULL OR m.until > %(since)s)
), paired AS (
    SELECT met.user_id,
        greatest(o.since, mine.since) AS since, least(o.until, mine.until) AS until
    FROM met JOIN memberships o ON o.user_id = met.user_id AND o.membership = 'join' AND o.since <= %(upto)s
        AND (o.until IS NULL OR o.until > %(since)s)
    JOIN mine ON mine.room = o.room
)
SELECT user_id,
    bool_or(since <= %(since)s AND (until IS NULL OR until > %(since)s)),
    bool_or(until IS NULL OR until > %(upto)s),
    bool_or(since <= %(since)s AND (until IS NULL OR until > %(upto)s))
FROM paired WHERE user_id <> %(user_id)s GROUP BY user_id
""")

_ROOMS_OF = """
SELECT user_id, room FROM memberships WHERE user_id = ANY (%s) AND until IS NULL AND membership = 'join'
"""
_DUE_USERS = "SELECT DISTINCT user_id FROM device_list_dues ORDER BY user_id LIMIT %s"
_IS_DUE = "SELECT 1 FROM device_list_dues WHERE user_id = %s LIMIT 1"
_STREAM_ID = "SELECT stream_id FROM device_lists WHERE user_id = %s"
_STREAM_IDS = "SELECT user_id, stream_id FROM device_lists WHERE user_id = ANY (%s)"

_LOCK_ANNOUNCING = "SELECT pg_try_advisory_xact_lock(5497287)"
_ANNOUNCEMENTS = """
SELECT a.position, a.user_id, a.device_id, a.stream_id, d.display_name, k.keys FROM device_list_announcements a
LEFT JOIN devices d ON d.user_id = a.user_id AND d.device_id = a.device_id
LEFT JOIN device_keys k ON k.user_id = a.user_id AND k.device_id = a.device_id
ORDER BY a.position, a.user_id, a.stream_id LIMIT %s
"""
_ANNOUNCED = """
DELETE FROM device_list_announcements a
USING json_to_recordset(%s) AS x(position bigint, user_id text, device_id text)
WHERE a.position = x.position AND a.user_id = x.user_id AND a.device_id = x.device_id
"""

_TRACKED = "SELECT user_id FROM remote_device_lists WHERE user_id = ANY (%s) AND NOT stale"
_SHARED_WITH = """
SELECT DISTINCT o.user_id FROM memberships o WHERE o.user_id = ANY (%(others)s) AND o.until IS NULL
    AND o.membership = 'join' AND o.room = ANY (%(rooms)s::bigint[])
"""
_IN_SIGHT = """
SELECT w.user_id FROM unnest(%(users)s::text[]) AS w(user_id) JOIN LATERAL (
    SELECT FROM memberships m JOIN memberships o ON o.room = m.room
    WHERE m.user_id = w.user_id AND m.until IS NULL AND m.membership = 'join'
      AND server_of(o.user_id) = %(own)s AND o.until IS NULL AND o.membership = 'join'
    LIMIT 1) AS seen ON true
"""
_LIST = "SELECT stream_id, stale, epoch FROM remote_device_lists WHERE user_id = %s"
_LIST_TXN = _LIST + " FOR UPDATE"
_BEGIN = "INSERT INTO remote_device_lists (user_id) VALUES (%s) ON CONFLICT (user_id) DO NOTHING"
_CLEAR = "DELETE FROM remote_devices WHERE user_id = %s"
_FILL = """
INSERT INTO remote_devices (user_id, device_id, display_name, keys)
SELECT %s, device_id, display_name, keys
FROM json_to_recordset(%s) AS x(device_id text, display_name text, keys text)
"""
_READ = """
UPDATE remote_device_lists SET stream_id = %s, stale = false, tries = 0, epoch = epoch + 1 WHERE user_id = %s
"""
_PUT_DEVICE = """
INSERT INTO remote_devices (user_id, device_id, display_name, keys) VALUES (%s, %s, %s, %s)
ON CONFLICT (user_id, device_id) DO UPDATE SET display_name = excluded.display_name, keys = excluded.keys
"""
_DROP_DEVICE = "DELETE FROM remote_devices WHERE user_id = %s AND device_id = %s"
_COUNT_DEVICES = "SELECT count(*) FROM remote_devices WHERE user_id = %s"
_ADVANCE = "UPDATE remote_device_lists SET stream_id = %s, epoch = epoch + 1 WHERE user_id = %s"
_MOVED = "UPDATE remote_device_lists SET epoch = epoch + 1 WHERE user_id = %s"
_DISTRUST = "UPDATE remote_device_lists SET stale = true, epoch = epoch + 1 WHERE user_id = %s"
_FAILED = """
UPDATE remote_device_lists SET tries = tries + 1, retry_ts = %s + %s * 2 ^ least(tries, 8) WHERE user_id = %s
"""
_TO_READ = """
UPDATE remote_device_lists r SET retry_ts = %(later)s WHERE r.user_id IN (
    SELECT user_id FROM remote_device_lists WHERE stale AND retry_ts <= %(now)s ORDER BY retry_ts LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED)
RETURNING r.user_id
"""
_FORGET = """
WITH gone AS (DELETE FROM remote_device_lists WHERE stale AND user_id = ANY (%s) RETURNING user_id)
DELETE FROM cross_signing_keys k USING gone WHERE k.user_id = gone.user_id
"""


class DeviceListStore:
    """Positions of changes, and who shares rooms with whom."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def changed(self, user_id: str, rooms: Sequence[int], since: int) -> list[str]:
        """Users whose lists changed after a position: `user_id`, who is joined to one of those rooms, or was signed."""
        params = {"user_id": user_id, "rooms": list(rooms), "since": since}
        rows = await self._database.fetch("device_lists_changed", _CHANGED, params)
        return [str(row[0]) for row in rows]

    async def sharing(self, user_id: str, rooms: Sequence[int], since: int, upto: int) -> list[Sharing]:
        """Of whoever came or went in those rooms in since < position ≤ upto, and of all in rooms that the user came
        into or left then: whether they shared a room with the user before and after."""
        params = {"user_id": user_id, "rooms": list(rooms), "since": since, "upto": upto}
        rows = await self._database.fetch("device_lists_sharing", _SHARING, params)
        return [Sharing(row[0], bool(row[1]), bool(row[2]), bool(row[3])) for row in rows]

    async def rooms_of(self, user_ids: Sequence[str]) -> dict[str, set[int]]:
        """The rooms each of the users is joined to now, of other servers too, in one query."""
        found: dict[str, set[int]] = {user_id: set() for user_id in user_ids}
        for user_id, room in await self._database.fetch("device_lists_rooms", _ROOMS_OF, (list(user_ids),)):
            found[user_id].add(room)
        return found

    async def due_users(self, limit: int) -> list[str]:
        """Users of whom something is due to be told."""
        return [
            str(row[0]) for row in await self._database.fetch("device_list_due_users", _DUE_USERS, (limit,))
        ]

    async def is_due(self, user_id: str) -> bool:
        """Whether something is due to be told of a user."""
        return await self._database.fetch_one("device_list_is_due", _IS_DUE, (user_id,)) is not None

    async def stream_id(self, user_id: str) -> int:
        """The newest change of the devices of one of our users, as other servers count them."""
        row = await self._database.fetch_one("device_list_stream_id", _STREAM_ID, (user_id,))
        return 0 if row is None else int(row[0])

    async def stream_ids(self, user_ids: Sequence[str]) -> dict[str, int]:
        """As `stream_id`, of many; those of whom nothing changed yet are absent."""
        rows = await self._database.fetch("device_list_stream_ids", _STREAM_IDS, (list(user_ids),))
        return {str(user_id): int(stream_id) for user_id, stream_id in rows}

    async def lock_announcing_txn(self, txn: Transaction) -> bool:
        """Be the only one to announce until the transaction ends; False if another process is."""
        row = await txn.fetch_one("device_list_announcing", _LOCK_ANNOUNCING)
        return row is not None and bool(row[0])

    async def announcements_txn(self, txn: Transaction, limit: int) -> list[Announcement]:
        """The oldest changes to be announced, in their order."""
        rows = await txn.fetch("device_list_announcements", _ANNOUNCEMENTS, (limit,))
        return [Announcement._make(row) for row in rows]

    async def announced_txn(self, txn: Transaction, done: Sequence[Announcement]) -> None:
        """They are announced."""
        rows = JsonRows(
            [{"position": a.position, "user_id": a.user_id, "device_id": a.device_id} for a in done]
        )
        await txn.execute("device_list_announced", _ANNOUNCED, (rows,))


class RemoteDeviceListStore:
    """The lists of users of other servers, as far as they are kept."""

    def __init__(self, database: Database, server_name: str) -> None:
        """`server_name`: ours."""
        self._database = database
        self._server_name = server_name

    async def believed(self, user_ids: Sequence[str]) -> set[str]:
        """Those of the users whose lists are kept and right."""
        rows = await self._database.fetch("remote_lists_believed", _TRACKED, (list(user_ids),))
        return {str(row[0]) for row in rows}

    async def sharing_with(self, rooms: Sequence[int], user_ids: Sequence[str]) -> set[str]:
        """Those of the users who are joined to one of the rooms."""
        params = {"rooms": list(rooms), "others": list(user_ids)}
        rows = await self._database.fetch("remote_lists_sharing", _SHARED_WITH, params)
        return {str(row[0]) for row in rows}

    async def in_sight(self, user_ids: Sequence[str]) -> set[str]:
        """Those of the users who share a room with one of ours: of changes of their lists we are told."""
        params = {"users": list(user_ids), "own": self._server_name}
        rows = await self._database.fetch("remote_lists_in_sight", _IN_SIGHT, params)
        return {str(row[0]) for row in rows}

    async def in_sight_txn(self, txn: Transaction, user_id: str) -> bool:
        """As `in_sight`, of one user; with the list locked, whoever ends that makes it stale afterwards."""
        params = {"users": [user_id], "own": self._server_name}
        return await txn.fetch_one("remote_list_in_sight", _IN_SIGHT, params) is not None

    async def begin(self, user_id: str) -> TrackedList:
        """Keep a user's list from now on; it is stale until it was read."""
        await self._database.execute("remote_lists_begin", _BEGIN, (user_id,))
        row = await self._database.fetch_one("remote_lists_get", _LIST, (user_id,))
        return TrackedList(None, True, 0) if row is None else TrackedList(*row)

    async def lock_txn(self, txn: Transaction, user_id: str) -> TrackedList | None:
        """What is kept of a list, for changing it; None: nothing."""
        row = await txn.fetch_one("remote_lists_lock", _LIST_TXN, (user_id,))
        return None if row is None else TrackedList(*row)

    async def replace_txn(
        self, txn: Transaction, user_id: str, devices: Sequence[RemoteDevice], stream_id: int
    ) -> None:
        """Put a list that was read whole: it is right."""
        await txn.execute("remote_lists_clear", _CLEAR, (user_id,))
        await txn.execute(
            "remote_lists_fill", _FILL, (user_id, JsonRows([device._asdict() for device in devices]))
        )
        await txn.execute("remote_lists_read", _READ, (stream_id, user_id))

    async def count_txn(self, txn: Transaction, user_id: str) -> int:
        """How many devices of the user are kept."""
        row = await txn.fetch_one("remote_lists_count", _COUNT_DEVICES, (user_id,))
        return 0 if row is None else int(row[0])

    async def put_device_txn(self, txn: Transaction, user_id: str, device: RemoteDevice) -> None:
        """Set one device."""
        await txn.execute("remote_lists_put_device", _PUT_DEVICE, (user_id, *device))

    async def drop_device_txn(self, txn: Transaction, user_id: str, device_id: str) -> None:
        """Remove one device."""
        await txn.execute("remote_lists_drop_device", _DROP_DEVICE, (user_id, device_id))

    async def advance_txn(self, txn: Transaction, user_id: str, stream_id: int) -> None:
        """The change of that number is in, which an answer to a reading under way may be without."""
        await txn.execute("remote_lists_advance", _ADVANCE, (stream_id, user_id))

    async def moved_txn(self, txn: Transaction, user_id: str) -> None:
        """Something changed that an answer to a reading under way may be without."""
        await txn.execute("remote_lists_moved", _MOVED, (user_id,))

    async def distrust_txn(self, txn: Transaction, user_id: str) -> None:
        """A change was missed: the list is to be read again."""
        await txn.execute("remote_lists_distrust", _DISTRUST, (user_id,))

    async def failed(self, user_id: str, now: int, pause: int) -> None:
        """It could not be read; the pause (ms) until the next attempt doubles each time."""
        await self._database.execute("remote_lists_failed", _FAILED, (now, pause, user_id))

    async def take_stale(self, now: int, lease: int, limit: int) -> list[str]:
        """Users whose lists are to be read again, for `lease` ms nobody else's business."""
        params = {"now": now, "later": now + lease, "limit": limit}
        rows = await self._database.fetch("remote_lists_take_stale", _TO_READ, params)
        return [str(row[0]) for row in rows]

    async def forget(self, user_ids: Sequence[str]) -> None:
        """Drop those lists, so far as they are stale."""
        await self._database.execute("remote_lists_forget", _FORGET, (list(user_ids),))
