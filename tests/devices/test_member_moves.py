# SPDX-License-Identifier: Apache-2.0
"""Who came or went in a room is not missed where the room was read further than commits were heard of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from immutables import Map

from homeserver.devices.member_moves import MemberMoves
from homeserver.protocol.room_versions import room_version
from homeserver.rooms.engine import Room, RoomHead
from homeserver.stream.changes import Change
from storage.rooms import Member

KEY = 7


class Process:
    """Has one room in memory, at position 11; everything after was written by another process."""

    def __init__(self) -> None:
        self.room = Room(_head(11, 1))
        self.moves = MemberMoves(10, self)

    def held_key(self, key: int) -> Room | None:
        return self.room if key == KEY else None

    async def get_many(self, *, keys: Sequence[int]) -> Mapping[str, Room]:
        raise AssertionError(keys)

    def hear(self, position: int) -> None:
        """Of a commit in the room."""
        self.room.written_after(position - 1, ())
        self.moves.changed(Change(before=position - 1, count=1, rooms=(KEY,), foreign=True))

    def read(self, position: int, members: int) -> None:
        """The room as it was at a position, with so many members."""
        self.room.follow(_head(position, members), ())


def _head(position: int, members: int) -> RoomHead:
    head = RoomHead("!room:localhost", room_version("11"), room=KEY, head=position, position=position)
    head.members = Map({f"@{n}:x": Member("join", n, n) for n in range(members)})
    return head


@pytest.mark.parametrize("asked", [True, False], ids=["asked before it is heard", "not asked"])
def test_a_member_who_was_read_before_it_was_heard_is_told(asked: bool) -> None:
    """Of 12 is heard, what is read has 13 too: whoever was told of all up to 12 must still be told of 13."""
    process = Process()
    process.hear(11)
    process.hear(12)
    process.read(13, 2)
    if asked:
        assert process.moves.may_have_changed(KEY, 11)
    process.hear(13)
    assert process.moves.may_have_changed(KEY, 12)
    assert not process.moves.may_have_changed(KEY, 13)


def test_a_member_who_was_read_before_anything_was_heard_is_told() -> None:
    """Of none of both was heard when the room was read; it is out of date again when they are."""
    process = Process()
    process.read(13, 2)
    process.room.doubt()
    process.hear(12)
    process.hear(13)
    process.room.cleared = process.room.suspected
    assert process.moves.may_have_changed(KEY, 11)
    assert process.moves.may_have_changed(KEY, 12)
    assert not process.moves.may_have_changed(KEY, 13)


def test_where_people_only_talk_nobody_came() -> None:
    process = Process()
    process.hear(11)
    members = process.room.head.members
    for position in (12, 13, 14):
        process.hear(position)
        process.read(position, 1)
        process.room.head.members = members
        assert not process.moves.may_have_changed(KEY, 11)
