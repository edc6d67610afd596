# SPDX-License-Identifier: Apache-2.0
"""The destinations table: how other servers are, and from where on those that are behind are owed events.

Owns what outlives a process of it. What is made of it is `federation/destinations.py`'s and the queues'; which events
a server is owed is read in `storage/outbound.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from zlib import crc32

import orjson
from msgspec import Struct
from msgspec.structs import asdict

from storage.database import Database, JsonRows

SHARDS = 64
CHANNEL = "destinations"
"""Notifications of standings that changed; `heard` reads their payload."""

_KEPT_DAYS = 30

_COLUMNS = "server_name, failures, failing_since, retry_at, refusals, send_again_at, reason, last_success"
_IN_TROUBLE = f"SELECT {_COLUMNS} FROM destinations WHERE failures > 0 OR refusals > 0 LIMIT %s"  # noqa: S608
_BEHIND = """SELECT server_name, delivered_up_to FROM destinations
    WHERE shard = ANY (%s::smallint[]) AND delivered_up_to IS NOT NULL"""
# Written and told at once: who hears of it in another order than it was written in would believe something else.
_PUT_STANDINGS = f"""
WITH put AS (
INSERT INTO destinations ({_COLUMNS}, shard)
SELECT {_COLUMNS}, shard FROM json_to_recordset(%s) AS x(
    server_name text, failures int, failing_since bigint, retry_at bigint, refusals int, send_again_at bigint,
    reason text, last_success bigint, shard smallint)
ORDER BY server_name
ON CONFLICT (server_name) DO UPDATE SET failures = excluded.failures, failing_since = excluded.failing_since,
    retry_at = excluded.retry_at, refusals = excluded.refusals, send_again_at = excluded.send_again_at,
    reason = CASE WHEN excluded.failures > 0 OR excluded.refusals > 0
        THEN coalesce(excluded.reason, destinations.reason) END,
    last_success = coalesce(excluded.last_success, destinations.last_success)
) SELECT count(pg_notify(%s, payload)) FROM unnest(%s::text[]) AS payload
"""  # noqa: S608
_FORGET = """
DELETE FROM destinations d WHERE delivered_up_to IS NULL AND coalesce(failing_since, last_success, 0) < %s
    AND NOT EXISTS (SELECT FROM outgoing_edus e WHERE e.server_name = d.server_name)
"""


class Standing(Struct, frozen=True):
    """How a server is. Times in milliseconds since 1970, 0 where there is none."""

    server_name: str
    failures: int = 0
    """Attempts in a row by which it was not reached."""
    failing_since: int | None = None
    retry_at: int = 0
    """When it may be tried again."""
    refusals: int = 0
    """Transactions in a row that it answered with an error."""
    send_again_at: int = 0
    """When it may be sent a transaction again."""
    reason: str | None = None
    last_success: int | None = None

    @property
    def is_well(self) -> bool:
        return not self.failures and not self.refusals


class Behind(NamedTuple):
    """A server that has everything up to a stream position, and not all that came after."""

    server_name: str
    delivered_up_to: int


def shard_of(server_name: str) -> int:
    """The shard of a destination, the same in every process and release."""
    return crc32(server_name.encode()) % SHARDS


class DestinationStore:
    """Reads and writes destinations."""

    def __init__(self, database: Database, origin: str) -> None:
        """`origin` names this process to the others."""
        self._database = database
        self._origin = origin

    async def in_trouble(self, limit: int) -> list[Standing]:
        """Servers that fail or refuse."""
        rows = await self._database.fetch("destinations_in_trouble", _IN_TROUBLE, (limit,))
        return [Standing(*row) for row in rows]

    async def behind(self, shards: Sequence[int]) -> list[Behind]:
        """Those of some shards that are behind."""
        rows = await self._database.fetch("destinations_behind", _BEHIND, (list(shards),))
        return [Behind._make(row) for row in rows]

    async def put_standings(self, standings: Sequence[Standing]) -> None:
        """Keep how servers are, and tell all processes, this one too, in the order in which it is kept."""
        if not standings:
            return
        rows = [{**asdict(each), "shard": shard_of(each.server_name)} for each in standings]
        payloads = [
            _payload(self._origin, standings[start : start + 20]) for start in range(0, len(standings), 20)
        ]
        params = (JsonRows(rows), CHANNEL, payloads)
        await self._database.fetch_one("destinations_put_standings", _PUT_STANDINGS, params, retry=False)

    async def forget_old(self, now: int) -> int:
        """Drop the rows of servers that were neither reached nor tried for a month and are owed nothing."""
        before = now - _KEPT_DAYS * 86_400_000
        return await self._database.execute("destinations_forget", _FORGET, (before,))


def _payload(origin: str, standings: Sequence[Standing]) -> str:
    rows: list[list[Any]] = [
        [s.server_name, s.failures, s.failing_since, s.retry_at, s.refusals, s.send_again_at]
        for s in standings
    ]
    return orjson.dumps({"origin": origin, "standings": rows}).decode()


def heard(payload: str) -> tuple[str, list[Standing]]:
    """Which process a notification is from, and the standings in it, without reason and last success."""
    message = orjson.loads(payload)
    return message["origin"], [Standing(*row) for row in message["standings"]]
