# SPDX-License-Identifier: Apache-2.0
"""Finding people on a real Postgres: by which words, and only whom one may find."""

from __future__ import annotations

import pytest

from homeserver.directory import DirectoryIndex, MutualRooms, UserSearch
from homeserver.errors import InvalidParam
from homeserver.rooms.engine import Draft
from storage.database import Database, Transaction
from storage.user_directory import UserDirectoryStore
from storage.users import NewUser, UserStore
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, Engine, member

DAVE = "@dave.smith:localhost"


async def add_users(database: Database, *users: str) -> None:
    store = UserStore(database)

    async def create(txn: Transaction) -> None:
        for user_id in users:
            await store.create_txn(txn, NewUser(user_id=user_id, password_hash=None), 0)

    await database.transaction("test", create)


async def name(database: Database, user_id: str, display_name: str, avatar_url: str | None = None) -> None:
    index = DirectoryIndex(UserDirectoryStore(database))

    async def work(txn: Transaction) -> None:
        await index.put_txn(txn, user_id, display_name, avatar_url)

    await database.transaction("test", work)


async def found(database: Database, term: str, *, everyone: bool = True, limit: int = 10) -> list[str]:
    search = UserSearch(UserDirectoryStore(database), search_all=everyone)
    return [user.user_id for user in (await search.search(ALICE, term, limit)).users]


@pytest.mark.parametrize(
    ("term", "users"),
    [
        ("bob", [BOB]),
        ("BO", [BOB]),
        ("müller", [BOB]),
        ("Robert MULL", [BOB]),
        ("bob robert", [BOB]),
        ("robert smith", []),
        ("smith", [DAVE]),
        ("ave", []),
        ("@bob", [BOB]),
        ("@BOB:local", [BOB]),
        ("@dave.smith:localhost", [DAVE]),
        ("@", []),
        ("", []),
        ("   ", []),
        ("' | !x:* \\", []),
        ("alice", []),
    ],
)
async def test_who_is_found_by_what(database: Database, term: str, users: list[str]) -> None:
    """By the beginnings of the words of either name, accents and case aside; never oneself."""
    await add_users(database, ALICE, BOB, DAVE)
    await name(database, ALICE, "Alice")
    await name(database, BOB, "Robert Müller", "mxc://localhost/bob")
    assert await found(database, term) == users


async def test_strangers_are_not_found(database: Database) -> None:
    """Unless they share a room with one, or are in a public or world-readable one. Rooms left do not count."""
    engine = await Engine.open(database)
    await add_users(database, ALICE, BOB, CAROL, DAVE)
    await engine.new_room(BOB, join_rule="invite")
    assert await found(database, "bob", everyone=False) == []
    await engine.new_room(CAROL, join_rule="public")
    await engine.new_room(DAVE, join_rule="invite", visibility="world_readable")
    assert await found(database, "carol", everyone=False) == [CAROL]
    assert await found(database, "dave", everyone=False) == [DAVE]
    shared = await engine.new_room(ALICE)
    await engine.join(shared.room_id, BOB)
    await engine.engine.write(
        shared.room_id,
        lambda _: [Draft("m.room.join_rules", ALICE, {"join_rule": "invite"}, "")],
        users=(ALICE,),
    )
    assert await found(database, "bob", everyone=False) == [BOB]
    await engine.engine.write(shared.room_id, lambda _: [member(BOB, "leave")], users=(BOB,))
    assert await found(database, "bob", everyone=False) == []


async def test_the_best_come_first_and_closed_accounts_not_at_all(database: Database) -> None:
    """Exact names, then those one knows, then those with a name."""
    engine = await Engine.open(database)
    users = ["@anna:localhost", "@anna2:localhost", "@anna3:localhost", "@anna4:localhost"]
    await add_users(database, ALICE, *users)
    await name(database, users[1], "Anna the second")
    room = await engine.new_room(ALICE)
    await engine.join(room.room_id, users[3])
    assert await found(database, "anna") == [users[0], users[3], users[1], users[2]]
    result = await UserSearch(UserDirectoryStore(database), search_all=True).search(ALICE, "anna", 2)
    assert (len(result.users), result.limited) == (2, True)
    await UserStore(database).deactivate(users[1], erase=False, now=0, until=0)
    assert await found(database, "anna") == [users[0], users[3], users[2]]


async def test_mutual_rooms(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rooms both are joined to, page by page; nothing of rooms only one is in."""
    engine = await Engine.open(database)
    rooms = []
    for _ in range(3):
        room = await engine.new_room(ALICE)
        await engine.join(room.room_id, BOB)
        rooms.append(room.room_id)
    await engine.new_room(BOB)
    await engine.new_room(ALICE)
    monkeypatch.setattr("homeserver.directory.mutual_rooms.PAGE", 2)
    mutual = MutualRooms(engine.user_rooms)
    first = await mutual.of(ALICE, BOB)
    assert (list(first.joined), first.count) == (rooms[:2], 3)
    second = await mutual.of(ALICE, BOB, first.next_batch)
    assert (list(second.joined), second.count, second.next_batch) == (rooms[2:], 3, None)
    assert (await mutual.of(ALICE, "@nobody:localhost")).count == 0
    for other, token in ((ALICE, None), ("bob", None), ("@ü:localhost", None), (BOB, "x"), (BOB, "-1")):
        with pytest.raises(InvalidParam):
            await mutual.of(ALICE, other, token)
