# SPDX-License-Identifier: Apache-2.0
"""Delayed leave events that were handed over to this server. Owns their table, whose times are the database's clock.

Whoever takes a row to look at it holds it until its next time: a process that dies holds it up no longer than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from storage.database import Database, Transaction

_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_FREE: Final = "DELETE FROM delegated_leaves WHERE delay_id = %s AND (livekit_room, identity) <> (%s, %s)"
_PUT: Final = f"""
INSERT INTO delegated_leaves (livekit_room, identity, delay_id, delay_ms, since_ts, restarted_ts, next_ts)
SELECT %s, %s, %s, %s, t.now, t.now, t.now FROM (SELECT {_NOW} AS now) t
ON CONFLICT (livekit_room, identity) DO UPDATE SET delay_id = excluded.delay_id, delay_ms = excluded.delay_ms,
    connected = false, since_ts = excluded.since_ts, restarted_ts = excluded.restarted_ts, next_ts = excluded.next_ts
"""  # noqa: S608
_TAKE: Final = f"""
UPDATE delegated_leaves d SET next_ts = {_NOW} + %s FROM (
    SELECT livekit_room, identity FROM delegated_leaves WHERE next_ts <= {_NOW}
    ORDER BY next_ts LIMIT %s FOR UPDATE SKIP LOCKED
) due WHERE d.livekit_room = due.livekit_room AND d.identity = due.identity
RETURNING d.livekit_room, d.identity, d.delay_id, d.delay_ms, d.connected, {_NOW} - d.since_ts, {_NOW} - d.restarted_ts,
    d.next_ts
"""  # noqa: S608
# What was heard of during the look stands: that they came, and that the next look is due.
_KEEP: Final = f"""
UPDATE delegated_leaves d SET connected = d.connected OR u.connected,
    next_ts = CASE WHEN d.next_ts = u.held_until THEN {_NOW} + u.pause ELSE d.next_ts END,
    restarted_ts = CASE WHEN u.restarted THEN {_NOW} ELSE d.restarted_ts END
FROM unnest(%s::text[], %s::text[], %s::text[], %s::boolean[], %s::boolean[], %s::bigint[], %s::bigint[])
    AS u (livekit_room, identity, delay_id, connected, restarted, pause, held_until)
WHERE d.livekit_room = u.livekit_room AND d.identity = u.identity AND d.delay_id = u.delay_id
"""  # noqa: S608
_DROP: Final = """
DELETE FROM delegated_leaves d USING unnest(%s::text[], %s::text[], %s::text[]) AS u (livekit_room, identity, delay_id)
WHERE d.livekit_room = u.livekit_room AND d.identity = u.identity AND d.delay_id = u.delay_id
"""
_HASTEN: Final = f"""
UPDATE delegated_leaves SET connected = connected OR %s, next_ts = {_NOW} WHERE livekit_room = %s AND identity = %s
"""  # noqa: S608


class DelegatedLeave(NamedTuple):
    """A row that was taken, with its ages in milliseconds."""

    livekit_room: str
    identity: str
    delay_id: str
    delay_ms: int
    connected: bool
    waited_ms: int
    unrestarted_ms: int
    held_until: int
    """Its `next_ts`, by which is told whether anybody hastened, or took, it meanwhile."""


class Kept(NamedTuple):
    """What was found out about a row, and for how long it rests."""

    leave: DelegatedLeave
    connected: bool
    restarted: bool
    pause_ms: int


class DelegatedLeaveStore:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, livekit_room: str, identity: str, delay_id: str, delay_ms: int) -> None:
        """Look after an event, in place of any other of that participant, and for no other participant."""

        async def work(txn: Transaction) -> None:
            await txn.execute("delegated_leaves_free", _FREE, (delay_id, livekit_room, identity))
            await txn.execute("delegated_leaves_put", _PUT, (livekit_room, identity, delay_id, delay_ms))

        await self._database.transaction("delegated_leaves_put", work)

    async def take(self, most: int, hold_ms: int) -> list[DelegatedLeave]:
        """Those that are to be looked at, held for so long."""
        rows = await self._database.fetch("delegated_leaves_take", _TAKE, (hold_ms, most))
        return [DelegatedLeave(*row) for row in rows]

    async def keep(self, kept: Sequence[Kept]) -> None:
        """Write down what was found out; a row that was hastened meanwhile does not rest."""
        columns = (
            [each.leave.livekit_room for each in kept],
            [each.leave.identity for each in kept],
            [each.leave.delay_id for each in kept],
            [each.connected for each in kept],
            [each.restarted for each in kept],
            [each.pause_ms for each in kept],
            [each.leave.held_until for each in kept],
        )
        await self._database.execute("delegated_leaves_keep", _KEEP, columns)

    async def drop(self, leaves: Sequence[DelegatedLeave]) -> None:
        """Look after them no longer."""
        columns = (
            [each.livekit_room for each in leaves],
            [each.identity for each in leaves],
            [each.delay_id for each in leaves],
        )
        await self._database.execute("delegated_leaves_drop", _DROP, columns)

    async def hasten(self, livekit_room: str, identity: str, *, came: bool) -> bool:
        """A participant was seen coming or going: look at once. Whether there is such a row."""
        row = (came, livekit_room, identity)
        return bool(await self._database.execute("delegated_leaves_hasten", _HASTEN, row))
