# SPDX-License-Identifier: Apache-2.0
"""Presence of another server's user is seen by those they share a room with, and by them only while they do."""

from __future__ import annotations

import pytest

from tests.federation.hostile.battlefield import OurRoom
from tests.federation.hostile.hostile_server import HostileServer, segment
from tests.interop.federation.lares import LaresServer
from tests.interop.federation.people import Person, Refused


def tell(hostile: HostileServer, state: str) -> None:
    content = {"push": [{"user_id": hostile.bob, "presence": state, "last_active_ago": 0}]}
    assert hostile.transaction([], [{"edu_type": "m.presence", "content": content}]).status == 200


def shown(who: Person, user_id: str) -> str | None:
    """Of what syncs have told, the newest."""
    content = who.presence.get(user_id)
    return None if content is None else str(content["presence"])


def test_it_follows_the_user_from_room_to_room(
    alice: Person, hostile: HostileServer, lares: LaresServer
) -> None:
    """Though they are known here all the while, being in a room of Alice's."""
    OurRoom(alice, hostile)
    carol, bob = lares.register(f"carol{id(hostile) % 10**9}"), hostile.bob
    status = f"v3/presence/{segment(bob)}/status"
    room_id = carol.create_room(room_version="11")
    tell(hostile, "online")
    alice.until(lambda me: shown(me, bob) == "online", "bob's presence")
    carol.say(room_id, "alone")
    carol.hears(room_id, "alone")
    assert shown(carol, bob) is None
    with pytest.raises(Refused):
        carol.call("GET", status)
    room = OurRoom(carol, hostile, visited=room_id)
    carol.until(lambda me: shown(me, bob) == "online", "the presence of bob, who came")
    assert carol.call("GET", status)["presence"] == "online"
    left = room.send("m.room.member", {"membership": "leave"}, bob, sender=bob)
    assert hostile.send(left) == {left.event.event_id: {}}
    with pytest.raises(Refused):
        carol.call("GET", status)
    tell(hostile, "unavailable")
    alice.until(lambda me: shown(me, bob) == "unavailable", "bob's presence")
    carol.say(room_id, "alone again")
    carol.hears(room_id, "alone again")
    assert shown(carol, bob) == "online"
