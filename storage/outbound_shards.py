# SPDX-License-Identifier: Apache-2.0
"""The outbound_shards table: which process serves which destinations, and up to where they have everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from storage.database import Database, JsonRows, Transaction
from storage.destinations import shard_of

CHANNEL = "outbound"
"""Notifications of processes that serve destinations; JSON objects."""

_MINE = "SELECT shard FROM outbound_shards WHERE holder = %s ORDER BY shard FOR UPDATE"
_HOLD = "SELECT o_shard, o_delivered_up_to, o_part FROM hold_outbound_shards(%s, %s, %s, %s)"
# Of a shard that another process took meanwhile, that one knows; it cannot take one while this is written.
_BEHIND = """
INSERT INTO destinations (server_name, shard, delivered_up_to)
SELECT x.server_name, x.shard, x.delivered_up_to
FROM json_to_recordset(%s) AS x(server_name text, shard smallint, delivered_up_to bigint)
JOIN outbound_shards s ON s.shard = x.shard AND s.holder = %s
ORDER BY x.server_name FOR UPDATE OF s
ON CONFLICT (server_name) DO UPDATE SET delivered_up_to = excluded.delivered_up_to
"""
_LET_GO = """
UPDATE outbound_shards s SET holder = NULL, until = '-infinity', delivered_up_to = x.delivered_up_to
FROM json_to_recordset(%s) AS x(shard smallint, delivered_up_to bigint)
WHERE s.shard = x.shard AND s.holder = %s
"""
_NOT_YET = """
UPDATE outbound_shards SET holder = NULL, until = '-infinity' WHERE shard = ANY (%s::smallint[]) AND holder = %s
"""
_LEAVE = "DELETE FROM outbound_processes WHERE origin = %s"
_NOTIFY = "SELECT pg_notify(%s, %s)"


class Held(Struct, frozen=True):
    """The shards a process holds, each with the position up to which its destinations have everything, and how many of
    all shards would be its even part."""

    shards: Mapping[int, int]
    part: int


class ShardStore:
    """Takes, renews and gives back shards. What is told of destinations is written with it, all or nothing, but for
    those whose shards are another process's: those are left out."""

    def __init__(self, database: Database, origin: str) -> None:
        self._database = database
        self._origin = origin

    async def hold(
        self,
        seconds: int,
        marks: Mapping[int, int],
        behind: Sequence[tuple[str, int | None]] = (),
        *,
        alone: bool = False,
    ) -> Held:
        """Renew, and take free shards up to the even part. `marks`: up to where the destinations of the shards held
        until now have everything, but for those in `behind`, which from now on have it up to their own position (None:
        as far as the shard). `alone`: no other process uses the database, whatever its rows say.

        A shard of `marks` that another process had meanwhile is not held, though it may be free again: what is in
        memory of it is of no use any more. It can be taken the next time, when its loss is known for certain here.
        """

        async def work(txn: Transaction) -> Held:
            mine = {row[0] for row in await txn.fetch("outbound_mine", _MINE, (self._origin,))}
            rows = await txn.fetch("outbound_hold", _HOLD, (self._origin, seconds, alone, _mark_rows(marks)))
            held = {int(row[0]): int(row[1]) for row in rows}
            lost = (marks.keys() & held.keys()) - mine
            if lost:
                await txn.execute("outbound_not_yet", _NOT_YET, (list(lost), self._origin))
            if behind:
                await txn.execute("outbound_behind", _BEHIND, (_behind_rows(behind), self._origin))
            there = {shard: position for shard, position in held.items() if shard not in lost}
            return Held(there, int(rows[0][2]) if rows else 0)

        return await self._database.transaction("outbound_hold", work)

    async def let_go(
        self,
        marks: Mapping[int, int],
        behind: Sequence[tuple[str, int | None]] = (),
        *,
        leave: bool = False,
    ) -> None:
        """Give shards back for others to take at once. `leave`: this process serves none any more."""

        async def work(txn: Transaction) -> None:
            if behind:
                await txn.execute("outbound_behind", _BEHIND, (_behind_rows(behind), self._origin))
            if marks:
                await txn.execute("outbound_let_go", _LET_GO, (_mark_rows(marks), self._origin))
            if leave:
                await txn.execute("outbound_leave", _LEAVE, (self._origin,))
            await txn.fetch_one("outbound_tell", _NOTIFY, (CHANNEL, '{"free": true}'))

        await self._database.transaction("outbound_let_go", work)


def _mark_rows(marks: Mapping[int, int]) -> JsonRows:
    return JsonRows([{"shard": shard, "delivered_up_to": position} for shard, position in marks.items()])


def _behind_rows(behind: Sequence[tuple[str, int | None]]) -> JsonRows:
    return JsonRows(
        [
            {"server_name": name, "shard": shard_of(name), "delivered_up_to": position}
            for name, position in behind
        ]
    )
