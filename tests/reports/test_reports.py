# SPDX-License-Identifier: Apache-2.0
"""Reports are kept, of what the reporter can see and of nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from homeserver.errors import InvalidParam, NotFound
from homeserver.reports import Reports
from storage.database import Database
from storage.reports import Report, ReportStore
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, Engine


class _Known:
    async def existing(self, user_ids: Sequence[str]) -> Collection[str]:
        return {ALICE, BOB, CAROL} & set(user_ids)


async def test_reports(database: Database) -> None:
    """An event, a room and a user, with reason and score, newest first."""
    engine, store = await Engine.open(database), ReportStore(database)
    room = await engine.new_room()
    await engine.join(room.room_id, BOB)
    event_id = await engine.send(room.room_id, ALICE, "rude")
    reports = Reports(store=store, gate=engine.gate, users=_Known(), now=lambda: 7)
    await reports.report_event(BOB, room.room_id, event_id, reason="rude", score=-50)
    await reports.report_event(BOB, room.room_id, event_id, reason=None, score=10**12)
    await reports.report_room(CAROL, room.room_id, reason="x" * 5000)
    await reports.report_user(CAROL, ALICE, reason="")
    await reports.report_user(CAROL, "@nobody:localhost", reason="")
    for reporter, target in ((CAROL, event_id), (BOB, "$unknown")):
        with pytest.raises(NotFound):
            await reports.report_event(reporter, room.room_id, target, reason=None, score=None)
    with pytest.raises(NotFound):
        await reports.report_event(BOB, "!unknown:localhost", event_id, reason=None, score=None)
    with pytest.raises(InvalidParam):
        await reports.report_room(BOB, "room", reason=None)
    with pytest.raises(InvalidParam):
        await reports.report_user(BOB, "user", reason=None)
    assert await store.newest(10) == [
        Report(7, CAROL, None, None, ALICE, "", None, 4),
        Report(7, CAROL, room.room_id, None, None, "x" * 4000, None, 3),
        Report(7, BOB, room.room_id, event_id, ALICE, None, None, 2),
        Report(7, BOB, room.room_id, event_id, ALICE, "rude", -50, 1),
    ]
    assert [report.report for report in await store.newest(1, before=3)] == [2]
