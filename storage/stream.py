# SPDX-License-Identifier: Apache-2.0
"""The stream's door: one function call commits a batch of rooms and other writes (migration 0031).

Owns the form of a batch on its way to the database. Who may write what, and in which order batches are made,
is decided by `homeserver/stream`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg2.errors
from msgspec import Struct, field

from storage.database import Database, JsonRows, Prepared

Row = Mapping[str, Any]

_COMMIT = Prepared(
    "SELECT before, written, keys FROM commit_stream(%s, %s, %s, %s, %s, %s, %s, %s, %s::text[], %s)"
)
_POSITION = "SELECT position FROM stream"
# Waits for a commit that is still under way, so that none can turn up below the position afterwards.
_SETTLED = "SELECT position FROM stream FOR UPDATE"

PARTS = "stream_parts"
"""The channel of what belongs to the next notification of the stream by the same process, and was too much for it.

A payload is the process' name and then lines. Those that begin with a brace hold rooms and users that moved, the others
are what a writer tells of a room.
"""
MOST_IN_A_PART = 7_900
"""Bytes; a notification must be below 8,000."""
MOST_IN_A_LINE = 7_800
"""Bytes."""


class AlreadyStored(Exception):
    """An event of the batch was stored by another process at the same moment. Nothing was committed."""


class StreamBatch(Struct):
    """Rows for `commit_stream`, in the form its comment gives."""

    count: int
    users: Sequence[str] = ()
    rooms: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    state: dict[str, list[Row]] = field(default_factory=dict)
    redactions: list[Row] = field(default_factory=list)
    writes: dict[str, list[Row]] = field(default_factory=dict)
    news: Sequence[str] = ()
    """Lines for the other processes, each of `MOST_IN_A_LINE` at most."""


class CommitResult(Struct, frozen=True):
    """`before` is the position before the batch's first; `written` maps a room's number in the batch to its key."""

    before: int
    written: dict[int, int]


class StreamStore:
    """Commits batches and tells the position."""

    def __init__(self, database: Database, origin: str, *, siblings: bool = True) -> None:
        """`siblings`: whether there are other processes besides those in `server_processes`, to be notified."""
        self._database = database
        self._origin = origin
        self._siblings = siblings

    async def position(self) -> int:
        """The newest committed position."""
        row = await self._database.fetch_one("stream_position", _POSITION)
        assert row is not None
        return int(row[0])

    async def settled_position(self) -> int:
        """The position once no commit is under way that might still add to what is below it."""
        row = await self._database.fetch_one("stream_settled_position", _SETTLED)
        assert row is not None
        return int(row[0])

    async def commit(self, batch: StreamBatch) -> CommitResult:
        """Commit durably in one round trip; rooms whose head had moved are left out of the result.

        Raises `storage.database.ConnectionLost` when the outcome is unknown, AlreadyStored.
        """
        try:
            row = await self._database.fetch_one(
                "stream_commit",
                _COMMIT,
                (
                    batch.count,
                    self._origin,
                    _json(batch.users),
                    _json(batch.rooms),
                    _json(batch.events),
                    _json(batch.state),
                    _json(batch.redactions),
                    _json(batch.writes),
                    _parts(self._origin, batch.news) if batch.news else None,
                    self._siblings,
                ),
                retry=False,
            )
        except psycopg2.errors.UniqueViolation as error:
            if error.diag.constraint_name == "events_by_id":
                raise AlreadyStored from error
            raise
        assert row is not None
        return CommitResult(int(row[0]), dict(zip(row[1], row[2], strict=True)))


def _parts(origin: str, lines: Sequence[str]) -> list[str]:
    """Lines put together into as few notifications as hold them."""
    parts: list[str] = []
    left = 0
    for line in lines:
        size = 1 + len(line.encode())
        if size > left:
            parts.append(origin)
            left = MOST_IN_A_PART - len(origin)
        parts[-1] += "\n" + line
        left -= size
    return parts


def _json(value: Sequence[object] | Mapping[str, object]) -> JsonRows | None:
    return JsonRows(value) if value else None
