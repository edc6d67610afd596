# SPDX-License-Identifier: Apache-2.0
"""Whom a commit in a room wakes: of those who wait, the members."""

from __future__ import annotations

import pytest
from immutables import Map

from homeserver.protocol.room_versions import room_version
from homeserver.rooms.engine import RoomHead
from homeserver.rooms.engine.head import concerned
from storage.rooms import Member


@pytest.mark.parametrize("members", [3, 300])
@pytest.mark.parametrize("listening", [2, 200])
def test_of_those_who_wait_the_joined_are_woken(members: int, listening: int) -> None:
    """Whichever of the two is walked over."""
    head = RoomHead("!room:localhost", room_version("11"))
    head.members = Map({f"@{n}:x": Member("join" if n % 3 else "leave", n, n) for n in range(members)})
    waiting = {f"@{n}:x": None for n in range(1, listening + 1)}.keys()
    expected = {f"@{n}:x" for n in range(1, min(members, listening + 1)) if n % 3}
    assert set(concerned(head, waiting)) == expected
