# SPDX-License-Identifier: Apache-2.0
"""What lies where on the disk: bytes by what they are for, and what an event costs.

Owns which table is for what. Sizes are what Postgres and the file names say; counts are Postgres' own estimates, and
what a message or a change of state takes is judged by a sample of events, unless everything is to be counted. The
largest rooms are those with the most events. Blocking, over a connection of its own, for an administrator beside the
running server; `StorageStore` reads the sizes alone, for its figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, Final

import psycopg2
from msgspec import Struct
from psycopg2.extensions import cursor

from storage.database import Database
from storage.packing import pdu_of

LARGEST_ROOMS: Final = 10
SAMPLED_PAGES: Final = 500
"""Pages of events that are looked at, of 8 KiB."""
PATIENCE: Final = "30s"
"""For one look, unless everything is to be counted."""

_PARTS: Final = {
    "events": ("events", "event_relations", "event_gaps", "timeline_gaps", "waiting_redactions"),
    "state": ("state_snapshots", "current_state", "memberships", "room_summaries"),
    "rooms": ("rooms", "room_aliases", "published_rooms", "partial_rooms", "delayed_events"),
    "receipts and account data": ("receipts", "account_data", "presence", "filters"),
    "accounts": ("users", "devices", "access_tokens", "refresh_tokens", "profiles", "user_directory"),
    "keys of devices": (
        *("device_keys", "one_time_keys", "fallback_keys", "cross_signing_keys", "key_signatures"),
        *("device_lists", "device_list_dues", "device_list_announcements", "user_signatures"),
        *("remote_device_lists", "remote_devices", "dehydrated_devices"),
    ),
    "messages to devices": ("to_device_messages", "to_device_transactions"),
    "backups of keys": ("key_backups", "backed_up_keys"),
    "media, without the files": ("media", "blobs", "thumbnails"),
    "federation": (
        *("server_keys", "server_key_answers", "inbound_transactions", "inbound_pdus", "inbound_rooms"),
        *("destinations", "outbound_shards", "outbound_processes", "outgoing_edus"),
    ),
}
PART_OF: Final = {table: part for part, tables in _PARTS.items() for table in tables}

_TABLES: Final = """SELECT c.relname, pg_table_size(c.oid), pg_indexes_size(c.oid), greatest(c.reltuples, 0)::bigint
    FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace"""
_COUNT: Final = "SELECT count(*) FROM events"
_SNAPSHOTS: Final = "SELECT count(*) FROM state_snapshots"
# Outliers are left out: they are the past of rooms that other servers made, and nobody's change here.
_KINDS: Final = f"""SELECT e.state_key IS NOT NULL, count(*), avg(pg_column_size(e.*)),
        avg(octet_length({pdu_of("e")}))
    FROM events e {{sample}} WHERE e.flags & 4 = 0 GROUP BY 1"""  # noqa: S608
_OUTLIERS: Final = (
    "SELECT count(*) FILTER (WHERE flags & 4 > 0)::float8 / greatest(count(*), 1) FROM events e {sample}"
)
_FILES: Final = "SELECT count(*), coalesce(sum(size), 0)::bigint FROM blobs"
_LARGEST: Final = """SELECT r.room_id, s.name, coalesce(s.joined_members, 0), r.next_ordinal - 1
    FROM rooms r LEFT JOIN room_summaries s USING (room) ORDER BY r.next_ordinal DESC LIMIT %s"""


class Part(Struct, frozen=True):
    """Tables that are for the same. Bytes; `rows` as Postgres estimates them."""

    name: str
    tables: int
    indexes: int
    rows: int


class EventCost(Struct, frozen=True):
    """What one of a kind takes on average, its share of indexes and of state included, and its JSON as it is signed."""

    count: int
    bytes: float
    json_bytes: float
    state_rows: float


class RoomSize(Struct, frozen=True):
    """A room; `events` are all that were ever stored of it."""

    room_id: str
    name: str | None
    joined_members: int
    events: int


class StorageReport(Struct, frozen=True):
    """All of it. A `None` took longer than was waited for."""

    exact: bool
    parts: Sequence[Part]
    messages: EventCost
    state_changes: EventCost
    files: int | None
    file_bytes: int | None
    largest_rooms: Sequence[RoomSize] | None

    @property
    def total(self) -> int:
        """Bytes of the whole database."""
        return sum(part.tables + part.indexes for part in self.parts)


def storage_report(dsn: str, *, exact: bool = False) -> StorageReport:
    """Look at the database of a server. `exact` counts everything, which reads every event. Raises psycopg2.Error."""
    with closing(psycopg2.connect(dsn, application_name="lares storage")) as conn:
        conn.autocommit = True
        with conn.cursor() as asked:
            asked.execute("SET default_transaction_read_only = on")
            asked.execute("SET statement_timeout = %s", ("0" if exact else PATIENCE,))
            return _report(asked, exact)


def _report(asked: cursor, exact: bool) -> StorageReport:
    asked.execute(_TABLES)
    tables = {row[0]: Part(*row) for row in asked.fetchall()}
    events, snapshots = tables["events"], tables["state_snapshots"]
    sample = "" if exact else f"TABLESAMPLE SYSTEM ({_percentage(events.tables):.6f})"
    stored, changes = (
        (_number(asked, _COUNT), _number(asked, _SNAPSHOTS)) if exact else (events.rows, snapshots.rows)
    )
    asked.execute(_KINDS.format(sample=sample))
    kinds = {bool(row[0]): (int(row[1]), float(row[2]), float(row[3])) for row in asked.fetchall()}
    looked_at = sum(kind[0] for kind in kinds.values())
    asked.execute(_OUTLIERS.format(sample=sample))
    (outliers,) = asked.fetchone() or (0.0,)
    if not exact and (stored == 0 or changes == 0):
        # A new database, of which Postgres has not yet taken count.
        stored, changes = _number(asked, _COUNT), _number(asked, _SNAPSHOTS)
    placed = stored * (1 - outliers)
    state_bytes = sum(
        tables[name].tables + tables[name].indexes for name in _PARTS["state"] if name in tables
    )
    costs = {}
    for is_state in (False, True):
        seen, width, json_bytes = kinds.get(is_state, (0, 0.0, 0.0))
        count = round(placed * seen / looked_at) if looked_at else 0
        # Tables hold rows of all widths, which share the pages by their widths and the indexes by their number.
        mean = sum(kind[0] * kind[1] for kind in kinds.values()) / looked_at if looked_at else 1.0
        own = (events.tables * width / mean + events.indexes) / stored if stored and seen else 0.0
        beside = state_bytes / count if is_state and count else 0.0
        rows = changes / count if is_state and count else 0.0
        costs[is_state] = EventCost(count, own + beside, json_bytes, rows)
    files = _patiently(asked, _FILES)
    largest = _patiently(asked, _LARGEST, (LARGEST_ROOMS,))
    return StorageReport(
        exact=exact,
        parts=parts_of(tables.values()),
        messages=costs[False],
        state_changes=costs[True],
        files=None if files is None else int(files[0][0]),
        file_bytes=None if files is None else int(files[0][1]),
        largest_rooms=None if largest is None else [RoomSize(*row) for row in largest],
    )


def parts_of(tables: Iterable[Part]) -> list[Part]:
    """Tables put together by what they are for, the largest first."""
    sums: dict[str, list[int]] = {}
    for table in tables:
        total = sums.setdefault(PART_OF.get(table.name, "everything else"), [0, 0, 0])
        for at, value in enumerate((table.tables, table.indexes, table.rows)):
            total[at] += value
    parts = [Part(name, *total) for name, total in sums.items()]
    return sorted(parts, key=lambda part: -part.tables - part.indexes)


def _percentage(table_bytes: int) -> float:
    """Of the pages, so that about `SAMPLED_PAGES` are read."""
    return min(100.0, 100.0 * SAMPLED_PAGES * 8192 / max(table_bytes, 1))


def _number(asked: cursor, sql: str) -> int:
    asked.execute(sql)
    row = asked.fetchone()
    assert row is not None
    return int(row[0])


def _patiently(asked: cursor, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]] | None:
    try:
        asked.execute(sql, params)
    except psycopg2.errors.QueryCanceled:
        return None
    return asked.fetchall()


class StorageStore:
    """Reads the sizes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def parts(self) -> list[Part]:
        """Bytes and estimated rows by what they are for: a look at the catalogue and at as many files as there are
        tables and indexes."""
        rows = await self._database.fetch("storage_tables", _TABLES, ())
        return parts_of(Part(*row) for row in rows)
