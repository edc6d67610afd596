# SPDX-License-Identifier: Apache-2.0
"""Which rooms users of other servers are in, as their events say."""

from __future__ import annotations

from storage.database import Database
from tests.rooms.intake.dag import MEMBER
from tests.rooms.intake.intake_fixture import DAVE, Process, ends


async def test_rooms_of_users_of_other_servers_are_those_they_are_in_now(database: Database) -> None:
    """However often that was asked before: a commit names users of this server only."""
    process = await Process.open(database)
    user_rooms = process.engine.user_rooms
    assert await user_rooms.joined(DAVE) == []
    room, dag = await process.room_with(DAVE)
    assert [standing.room for standing in await user_rooms.joined(DAVE)] == [room.key]
    left = dag.write(DAVE, MEMBER, {"membership": "leave"}, DAVE, prev=ends(room))
    await process.accept(room, left)
    assert await user_rooms.joined(DAVE) == []
    assert user_rooms.size == 0
