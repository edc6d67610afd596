# SPDX-License-Identifier: Apache-2.0
"""Member events of a room that has more of them than are kept in memory."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from storage.database import Database
from storage.events import StoredEvent
from tests.rooms.engine_fixture import Engine, member

MEMBERS = 2500


async def test_what_is_in_memory_is_not_read_again_where_not_all_fits(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each portion that is read pushes out others, but none that the same reader is about to look for."""
    engine = await Engine.open(database, budget=4 * 5_000_000)
    room_id = (await engine.new_room()).room_id
    everybody = [f"@member{number}:localhost" for number in range(MEMBERS)]
    joins = [member(user, "join") for user in everybody]
    for start in range(0, MEMBERS, 500):
        part = joins[start : start + 500]
        await engine.engine.write(room_id, lambda _head, part=part: part, users=())  # type: ignore[misc]
    room = await engine.cache.get(room_id)
    assert room is not None
    ordinals = [room.head.members[user].ordinal for user in everybody]
    await engine.gate.load(room, ordinals)
    kept = sum(engine.member_events.peek(room.key, ordinal) is not None for ordinal in ordinals)
    assert 0 < kept < MEMBERS
    read: list[tuple[int, int]] = []
    by_ordinals = engine.events.by_ordinals

    async def counted(wanted: Iterable[tuple[int, int]]) -> list[StoredEvent]:
        read.extend(wanted)
        return await by_ordinals(wanted)

    monkeypatch.setattr(engine.events, "by_ordinals", counted)
    found = await engine.gate.load(room, ordinals)
    assert {entry.stored.ordinal for entry in found} == set(ordinals)
    assert len(read) == MEMBERS - kept
