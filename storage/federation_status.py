# SPDX-License-Identifier: Apache-2.0
"""How sending to other servers stands, for an administrator beside the running server: blocking, over a connection of
its own. Reads what the processes last wrote down, a few seconds ago; and asks them to try a server again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import orjson
import psycopg2
from msgspec import Struct
from msgspec.structs import replace
from psycopg2.extensions import connection

from storage.destinations import CHANNEL
from storage.outbound import MISSED

MOST_LISTED = 200
MOST_COUNTED = 1000
"""Events counted of what a server is to be sent; of more it is said that there are so many at least."""

_LIST = """
SELECT d.server_name, d.delivered_up_to, d.failures, d.failing_since, d.retry_at, d.refusals, d.send_again_at, d.reason,
    d.last_success, (SELECT count(*) FROM outgoing_edus e WHERE e.server_name = d.server_name)
FROM destinations d
"""
_TROUBLE = "WHERE d.delivered_up_to IS NOT NULL OR d.failures > 0 OR d.refusals > 0"
_TOTALS = f"""
SELECT count(*) FILTER (WHERE failures > 0), count(*) FILTER (WHERE refusals > 0),
    count(*) FILTER (WHERE delivered_up_to IS NOT NULL) FROM destinations d {_TROUBLE}
"""  # noqa: S608
_PROCESSES = """SELECT count(DISTINCT holder) FILTER (WHERE until > now()),
    count(*) FILTER (WHERE holder IS NULL OR until <= now()) FROM outbound_shards"""
_EDUS = "SELECT count(*) FROM outgoing_edus"
_RETRY = """
UPDATE destinations SET retry_at = 0, send_again_at = 0 WHERE server_name = %s
RETURNING server_name, failures, failing_since, retry_at, refusals, send_again_at
"""


class DestinationStatus(Struct, frozen=True):
    """One server. Times in milliseconds since 1970."""

    server_name: str
    delivered_up_to: int | None
    failures: int
    failing_since: int | None
    retry_at: int
    refusals: int
    send_again_at: int
    reason: str | None
    last_success: int | None
    waiting_edus: int
    waiting_events: int | None = None
    """To be sent when it is back, at most `MOST_COUNTED`; None: not counted."""


class SendingStatus(Struct, frozen=True):
    """All of it."""

    processes: int
    """That send at present."""
    unserved_shards: int
    """Of 64 parts into which the servers fall, those that no process sends to at present."""
    failing: int
    refusing: int
    behind: int
    waiting_edus: int
    destinations: Sequence[DestinationStatus]
    """Those in trouble, the longest first."""


def sending_status(dsn: str) -> SendingStatus:
    """How it stands. Raises psycopg2.Error."""
    with _connected(dsn) as conn:
        processes, unserved = _rows(conn, _PROCESSES)[0]
        failing, refusing, behind = _rows(conn, _TOTALS)[0]
        edus = _rows(conn, _EDUS)[0][0]
        order = f" {_TROUBLE} ORDER BY d.failing_since NULLS LAST, d.server_name LIMIT %s"
        listed = [DestinationStatus(*row) for row in _rows(conn, _LIST + order, (MOST_LISTED,))]
    return SendingStatus(processes, unserved, failing, refusing, behind, edus, listed)


def destination_status(dsn: str, server_name: str) -> DestinationStatus | None:
    """How one server stands, with what waits for it counted; None if nothing was ever noted of it."""
    with _connected(dsn) as conn:
        rows = _rows(conn, _LIST + "WHERE d.server_name = %s", (server_name,))
        if not rows:
            return None
        events = 0
        if rows[0][1] is not None:
            bounds = {
                "server": server_name,
                "after": rows[0][1],
                "upto": 2**62,
                "limit": MOST_COUNTED,
                "whole": MOST_COUNTED,
                "per_room": MOST_COUNTED,
            }
            events = len(_rows(conn, MISSED, bounds))
        return replace(DestinationStatus(*rows[0]), waiting_events=events)


def retry_now(dsn: str, server_name: str) -> bool:
    """Have the server tried at once; False if nothing was ever noted of it. Raises psycopg2.Error."""
    with _connected(dsn) as conn:
        rows = _rows(conn, _RETRY, (server_name,))
        if rows:
            payload = orjson.dumps({"origin": "command", "standings": [list(rows[0])]}).decode()
            _rows(conn, "SELECT pg_notify(%s, %s)", (CHANNEL, payload))
        return bool(rows)


@contextmanager
def _connected(dsn: str) -> Iterator[connection]:
    opened = psycopg2.connect(dsn, application_name="lares federation", connect_timeout=10)
    with closing(opened) as conn, conn:  # which is committed at the end
        with conn.cursor() as cursor:
            cursor.execute("SET search_path = public")
        yield conn


def _rows(conn: connection, sql: str, params: Any = ()) -> list[tuple[Any, ...]]:
    with conn.cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor.fetchall())
