# SPDX-License-Identifier: Apache-2.0
"""What is remembered for rooms' summaries."""

from __future__ import annotations

import gc
from weakref import ref

from immutables import Map

from homeserver.protocol.room_versions import room_version
from homeserver.rooms.engine import RoomHead
from homeserver.sync.state import StateView
from homeserver.sync.summary import Summaries
from storage.rooms import Member

USERS = [f"@u{number}:localhost" for number in range(100)]


def head_of(count: int) -> RoomHead:
    head = RoomHead("!room:localhost", room_version("11"))
    head.members = Map((user, Member("join", at, at)) for at, user in enumerate(USERS[:count]))
    return head


def test_the_first_members_are_remembered_without_keeping_all_in_memory() -> None:
    summaries, head = Summaries(), head_of(100)
    assert summaries.heroes(StateView(head), {}, USERS[0]) == USERS[1:6]
    members = ref(head.members)
    del head
    gc.collect()
    assert members() is None
    assert summaries.heroes(StateView(head_of(3)), {}, USERS[0]) == USERS[1:3]
