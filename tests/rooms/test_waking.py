# SPDX-License-Identifier: Apache-2.0
"""Whom a commit in a room wakes: of those who wait, the members."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from immutables import Map
from twisted.internet.task import deferLater

from homeserver.protocol.room_versions import room_version
from homeserver.rooms.engine import RoomHead
from homeserver.rooms.engine.head import concerned
from homeserver.rooms.listening import readers_in
from homeserver.rooms.user_rooms import UserRooms
from homeserver.stream.changes import Change
from storage.database import Database
from storage.memberships import Standing
from storage.rooms import Member
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, Engine


@pytest.mark.parametrize("members", [3, 300])
@pytest.mark.parametrize("listening", [2, 200])
def test_of_those_who_wait_the_joined_are_woken(members: int, listening: int) -> None:
    """Whichever of the two is walked over."""
    head = RoomHead("!room:localhost", room_version("11"))
    head.members = Map({f"@{n}:x": Member("join" if n % 3 else "leave", n, n) for n in range(members)})
    waiting = {f"@{n}:x": None for n in range(1, listening + 1)}.keys()
    expected = {f"@{n}:x" for n in range(1, min(members, listening + 1)) if n % 3}
    assert set(concerned(head, waiting)) == expected


class Standings:
    """A store of whose users each is in the rooms of its number's divisors."""

    async def standing(self, user_id: str) -> Sequence[Standing]:
        number = int(user_id[1:])
        return [
            Standing(n, f"!{n}", "join", 1, 1, user_id, False, "[]")
            for n in range(1, number + 1)
            if number % n == 0
        ]


async def test_who_has_to_do_with_a_room_is_known_of_those_who_are_in_memory() -> None:
    """Whoever came, changed or had to make room for others; who is not in memory may be anywhere."""
    chance = Random(1)
    rooms = UserRooms(Standings(), capacity=60)  # type: ignore[arg-type]
    waiting = {f"@{number}": None for number in range(1, 31)}.keys()
    for step in range(300):
        user_id = chance.choice(list(waiting))
        if step % 50 == 49:
            rooms.changed(Change(before=step, count=1, unknown=True))
        elif step % 7 == 0:
            rooms.changed(Change(before=step, count=1, users=[user_id]))
        else:
            await rooms.of(user_id)
        wanted = [chance.randrange(1, 40) for _ in range(chance.randrange(1, 3))]
        known = {user for user in waiting if rooms.known(user) is not None}
        assert set(rooms.unknown(waiting)) == waiting - known
        assert set(rooms.concerned(waiting, wanted)) == {
            user for user in waiting if user not in known or any(int(user[1:]) % room == 0 for room in wanted)
        }


async def test_readers_are_named_whatever_memory_has_of_the_room(database: Database) -> None:
    """Its members where it is in memory, and nobody who is known to be elsewhere where it is not."""
    engine, other = await Engine.open(database), await Engine.open(database)
    room = await other.new_room()
    await other.join(room.room_id, BOB)
    waiting = [engine.stream.listen(user) for user in (ALICE, BOB, CAROL)]
    readers = readers_in(engine.cache, engine.user_rooms, engine.stream.listeners)
    assert set(readers(room.key)) == {ALICE, BOB, CAROL}
    while engine.stream.position < other.stream.position:
        await deferLater(reactor, 0)
    for listener in waiting:
        await engine.user_rooms.of(listener.user_id)
    assert engine.cache.held_key(room.key) is None
    assert set(readers(room.key)) == {ALICE, BOB} and set(readers(room.key + 1)) == set()
    held = await engine.cache.get(room.room_id)
    assert held is not None and set(readers(room.key)) == {ALICE, BOB}
    held.doubt()
    assert set(readers(room.key)) == {ALICE, BOB}
    engine.user_rooms.forget(CAROL)
    assert set(readers(room.key)) == {ALICE, BOB, CAROL}
