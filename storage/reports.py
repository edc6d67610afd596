# SPDX-License-Identifier: Apache-2.0
"""The reports table: what users reported to the administrators."""

from __future__ import annotations

from typing import NamedTuple

from storage.database import Database

_ADD = """INSERT INTO reports (received_ts, reporter, room_id, event_id, user_id, reason, score)
    VALUES (%s, %s, %s, %s, %s, %s, %s)"""
_NEWEST = """SELECT received_ts, reporter, room_id, event_id, user_id, reason, score, report FROM reports
    WHERE %(before)s::bigint IS NULL OR report < %(before)s ORDER BY report DESC LIMIT %(limit)s"""


class Report(NamedTuple):
    """A report: of an event (room, event and its sender set), of a room, or of a user."""

    received_ts: int
    """Milliseconds since 1970."""
    reporter: str
    room_id: str | None = None
    event_id: str | None = None
    user_id: str | None = None
    reason: str | None = None
    score: int | None = None
    report: int | None = None
    """Its number; None before it is stored."""


class ReportStore:
    """Keeps reports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, report: Report) -> None:
        """Store a new report."""
        await self._database.execute("reports_add", _ADD, report[:7])

    async def newest(self, limit: int, before: int | None = None) -> list[Report]:
        """Up to `limit` reports, newest first, from below a report's number."""
        rows = await self._database.fetch("reports_newest", _NEWEST, {"limit": limit, "before": before})
        return [Report._make(row) for row in rows]
