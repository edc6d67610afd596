# SPDX-License-Identifier: Apache-2.0
"""Commits that name more than a notification can hold, on a real database."""

from __future__ import annotations

from twisted.internet.task import deferLater

from homeserver.stream import Stream
from storage.database import Database
from storage.stream import PARTS, StreamBatch, StreamStore
from tests.reactor import reactor
from tests.stream.test_stream import Noting


async def test_very_many_users_rooms_and_lost_rooms_are_all_named(database: Database) -> None:
    """To another process, which then need not doubt everything it holds."""
    noting = Noting()
    stream = Stream(origin="there", position=await StreamStore(database, "there").position())
    stream.subscribe(noting)
    await database.listen("stream", stream.heard)
    await database.listen(PARTS, stream.heard_part)
    users = [f"@{'ü' * 60}{number}:localhost" for number in range(400)]
    rooms = [
        {
            "r": number,
            "room_id": f"!{number}:localhost",
            "version": "11",
            "expected": 0,
            "depth": 1,
            "extremities": [],
            "next_ordinal": 1,
            "snapshot": 0,
            "next_snapshot": 1,
            "snapshot_weight": 0,
            "last": 0,
        }
        for number in range(900)
    ]
    lost = [
        {**room, "r": 1_000 + number, "room": 10**15 + number, "expected": 1}
        for number, room in enumerate(rooms)
    ]
    news = [f"{number} 1 0 [{'x' * 3_000}]" for number in range(20)]
    result = await StreamStore(database, "here").commit(
        StreamBatch(count=3, users=users, rooms=[*rooms, *lost], news=news)
    )
    while not noting.changes:
        await deferLater(reactor, 0)
    (change,) = noting.changes
    assert (change.before, change.count, change.unknown) == (result.before, 3, False)
    assert sorted(change.users) == sorted(users)
    assert sorted(change.rooms) == sorted(result.written.values())
    assert len(change.rooms) == len(rooms)
    assert sorted(change.lost) == [room["room"] for room in lost]
    assert change.news == {number: [line] for number, line in enumerate(news)}
