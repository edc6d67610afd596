# SPDX-License-Identifier: Apache-2.0
"""Whom a commit in a room wakes: of those who wait, the members."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from random import Random

import pytest
from immutables import Map
from twisted.internet.task import deferLater

from homeserver.protocol.room_versions import room_version
from homeserver.rooms.engine import Draft, RoomHead
from homeserver.rooms.engine.head import concerned
from homeserver.rooms.listening import readers_in, readers_in_any
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
    rooms = UserRooms(Standings(), is_ours=lambda _: True, capacity=60)  # type: ignore[arg-type]
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
    of_any = readers_in_any(engine.cache, engine.user_rooms, engine.stream.listeners)
    assert set(readers(room.key)) == set(of_any({room.key})) == {ALICE, BOB, CAROL}
    while engine.stream.position < other.stream.position:
        await deferLater(reactor, 0)
    for listener in waiting:
        await engine.user_rooms.of(listener.user_id)
    assert engine.cache.held_key(room.key) is None
    assert set(readers(room.key)) == {ALICE, BOB} and set(readers(room.key + 1)) == set()
    assert set(of_any({room.key, room.key + 1})) == {ALICE, BOB} and set(of_any({room.key + 1})) == set()
    held = await engine.cache.get(room.room_id)
    assert held is not None and set(readers(room.key)) == set(of_any({room.key})) == {ALICE, BOB}
    held.doubt()
    assert set(readers(room.key)) == set(of_any({room.key})) == {ALICE, BOB}
    engine.user_rooms.forget(CAROL)
    assert set(readers(room.key)) == set(of_any({room.key})) == {ALICE, BOB, CAROL}


class OneLook:
    """Rooms of users, and how often those who wait were walked over."""

    def __init__(self, rooms: UserRooms) -> None:
        self.looks = 0
        self._rooms = rooms

    def concerned(self, users: Set[str], rooms: Collection[int]) -> Collection[str]:
        self.looks += 1
        return self._rooms.concerned(users, rooms)

    def unknown(self, users: Set[str]) -> Collection[str]:
        return self._rooms.unknown(users)


async def test_readers_of_many_rooms_are_found_in_one_look(database: Database) -> None:
    """Their members where these are few, else all who wait, once."""
    engine = await Engine.open(database)
    rooms = [await engine.new_room() for _ in range(5)]
    for room in rooms[1:]:
        await engine.join(room.room_id, BOB)
    waiting = [engine.stream.listen(user) for user in (ALICE, BOB, CAROL)]
    for listener in waiting:
        await engine.user_rooms.of(listener.user_id)
    looking = OneLook(engine.user_rooms)
    of_any = readers_in_any(engine.cache, looking, engine.stream.listeners)
    found = [(set(of_any([room.key for room in some])), looking.looks) for some in (rooms[:2], rooms)]
    assert found == [({ALICE, BOB}, 0), ({ALICE, BOB}, 1)]


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("most", [0, 1000])
async def test_who_joined_elsewhere_is_woken_though_that_was_never_read_here(
    database: Database, state: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room is in memory as it was before, since nobody here asked for it. `most`: how many such users are kept."""
    monkeypatch.setattr("homeserver.rooms.engine.room.MOST_MOVED", most)
    engine, other = await Engine.open(database), await Engine.open(database)
    room = await other.new_room()
    while engine.stream.position < other.stream.position:
        await deferLater(reactor, 0)
    held = await engine.cache.get(room.room_id)
    assert held is not None
    await other.join(room.room_id, CAROL)
    await other.send(room.room_id, ALICE, "before she waits")
    while engine.stream.position < other.stream.position:
        await deferLater(reactor, 0)
    await engine.user_rooms.of(CAROL)
    readers = readers_in(engine.cache, engine.user_rooms, engine.stream.listeners)
    woken = engine.stream.listen(CAROL).wait()
    assert held.stale and held.in_doubt is (most == 0) and CAROL in set(readers(room.key))
    if state:
        draft = Draft("m.room.topic", ALICE, {"topic": "for her"}, "")
        await other.engine.write(room.room_id, lambda _: [draft], users=(ALICE,))
    else:
        await other.send(room.room_id, ALICE, "for her")
    await woken
    now = await engine.cache.get(room.room_id)
    assert now is held and now.head.is_joined(CAROL)
    assert not now.may_have({CAROL})
