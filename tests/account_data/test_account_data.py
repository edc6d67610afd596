# SPDX-License-Identifier: Apache-2.0
"""Account data on a real Postgres: kept, told, deleted; tags; whom a user ignores."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from homeserver.account_data import (
    IGNORED_USER_LIST,
    AccountData,
    AccountDataChanges,
    CarryOver,
    InvitePermissions,
    Tags,
    UserDataCache,
    service,
)
from homeserver.account_data.memory import UserData
from homeserver.errors import BadJson, InvalidParam, NotFound, TooLarge
from homeserver.protocol.push_rules import PushRule
from homeserver.push_rules import PushRules
from storage.account_data import AccountDataEntry, AccountDataStore
from storage.database import Database
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB, Engine


@dataclass(frozen=True, slots=True)
class Process:
    """One process with account data."""

    engine: Engine
    account_data: AccountData

    @classmethod
    async def open(cls, database: Database) -> Process:
        engine = await Engine.open(database)
        cache = UserDataCache()
        engine.stream.subscribe(cache)
        account_data = AccountData(
            store=AccountDataStore(database),
            committer=engine.committer,
            moved=engine.stream.users,
            user_rooms=engine.user_rooms,
            cache=cache,
        )
        return cls(engine, account_data)

    async def changed(self, user_id: str, since: int = 0) -> AccountDataChanges:
        return await self.account_data.changed(user_id, since, self.engine.stream.position)

    async def reached(self, position: int) -> None:
        """Let the reactor turn until this process shows a position."""
        while self.engine.stream.position < position:
            await deferLater(reactor, 0)


def entry(event_type: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"type": event_type, "content": content}


async def test_global_and_room_data_are_kept_apart_and_told(database: Database) -> None:
    """An increment has what moved since, an initial sync all of it, and nobody else any of it."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.account_data.put(ALICE, "org.example.a", {"n": 1})
    middle = process.engine.stream.position
    await process.account_data.put(ALICE, "org.example.a", {"room": True}, room.room_id)
    assert await process.account_data.get(ALICE, "org.example.a") == {"n": 1}
    assert await process.account_data.find(ALICE, room.room_id, "org.example.a") == {"room": True}
    since = await process.changed(ALICE, middle)
    assert (since.global_, since.rooms) == ([], {room.key: [entry("org.example.a", {"room": True})]})
    everything = await process.changed(ALICE)
    assert (everything.global_, everything.rooms) == ([entry("org.example.a", {"n": 1})], since.rooms)
    assert await process.changed(BOB) == AccountDataChanges()
    assert await process.account_data.find(BOB, room.room_id, "org.example.a") is None


async def test_what_is_kept_for_one_user_is_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all, whatever it is split into; there is always a way to make room."""
    monkeypatch.setattr(service, "MAX_USER_BYTES", 3000)
    for process in (await Process.open(database), await Process.open(database)):
        room = await process.engine.new_room()
        await process.account_data.put(ALICE, "org.example.a", {"a": "x" * 2500})
        for room_id in (None, room.room_id):
            with pytest.raises(TooLarge):
                await process.account_data.put(ALICE, "org.example.b", {"a": "x" * 500}, room_id)
        with pytest.raises(TooLarge):
            await Tags(process.account_data).put(ALICE, room.room_id, "u.tag", {"a": "x" * 500})
        await process.account_data.put(ALICE, "org.example.a", {"a": "x" * 2600})
        await process.account_data.put(ALICE, "org.example.a", {})
        await process.account_data.put(ALICE, "org.example.b", {"a": "x" * 2000})
        await process.account_data.delete(ALICE, "org.example.b")
    for number in range(30):
        with contextlib.suppress(TooLarge):
            await process.account_data.put(ALICE, f"org.example.{number}", {})
    assert len((await process.changed(ALICE)).global_) < 30


async def test_without_news_there_is_no_query(database: Database) -> None:
    """Neither when nothing moved, nor when what moved is in memory."""
    process = await Process.open(database)
    await process.account_data.get(ALICE, "org.example.a")
    before = process.engine.stream.position
    await process.account_data.put(ALICE, "org.example.a", {"n": 1})
    await database.close()
    assert (await process.changed(ALICE, before)).global_ == [entry("org.example.a", {"n": 1})]
    assert await process.changed(BOB, before) == AccountDataChanges()


async def test_another_process_tells_of_it(database: Database) -> None:
    """A process that had the user's data in memory shows what was written elsewhere, and wakes the user."""
    process, other = await Process.open(database), await Process.open(database)
    await other.account_data.put(ALICE, "org.example.a", {"n": 1})
    await process.reached(other.engine.stream.position)
    assert await process.account_data.get(ALICE, "org.example.a") == {"n": 1}
    woken = process.engine.stream.listen(ALICE).wait()
    before = process.engine.stream.position
    await other.account_data.put(ALICE, "org.example.a", {"n": 2})
    await woken
    assert (await process.changed(ALICE, before)).global_ == [entry("org.example.a", {"n": 2})]


async def test_deletion_is_told_once_and_then_forgotten(database: Database) -> None:
    """Devices that knew the entry get it empty; a new one does not get it at all. (MSC3391)"""
    process = await Process.open(database)
    await process.account_data.put(ALICE, "org.example.a", {"n": 1})
    before = process.engine.stream.position
    await process.account_data.delete(ALICE, "org.example.a")
    assert (await process.changed(ALICE, before)).global_ == [entry("org.example.a", {})]
    assert await process.changed(ALICE) == AccountDataChanges()
    assert await process.account_data.get(ALICE, "org.example.a") is None
    at = process.engine.stream.position
    await process.account_data.delete(ALICE, "org.example.a")
    assert process.engine.stream.position == at


@pytest.mark.parametrize("event_type", ["m.fully_read", "m.push_rules"])
async def test_what_the_server_manages_is_not_for_clients(database: Database, event_type: str) -> None:
    """Neither set nor deleted through the API, in whatever room."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    for room_id in (None, room.room_id):
        with pytest.raises(BadJson):
            await process.account_data.put(ALICE, event_type, {}, room_id)
        with pytest.raises(BadJson):
            await process.account_data.delete(ALICE, event_type, room_id)


@pytest.mark.parametrize(("event_type", "error"), [("a\0b", InvalidParam), ("ä" * 128, TooLarge)])
async def test_what_cannot_be_a_type(database: Database, event_type: str, error: type[Exception]) -> None:
    """Nothing that Postgres could not store reaches a commit, which is shared."""
    process = await Process.open(database)
    with pytest.raises(error):
        await process.account_data.put(ALICE, event_type, {})
    with pytest.raises(TooLarge):
        await process.account_data.put(ALICE, "org.example.a", {"a": "x" * 600_000})


async def test_a_room_one_never_was_in_takes_no_data(database: Database) -> None:
    """In the same words as for a room that does not exist."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    errors = []
    for room_id in (room.room_id, "!none:localhost"):
        with pytest.raises(NotFound) as caught:
            await process.account_data.put(BOB, "org.example.a", {}, room_id)
        errors.append(caught.value.as_dict())
    assert errors[0] == errors[1]


async def test_simultaneous_tags_are_all_put(database: Database) -> None:
    """Tags put at once by several devices on two processes: none is lost, though all are one entry."""
    process, other = await Process.open(database), await Process.open(database)
    room = await process.engine.new_room()
    names = [f"u.{n}" for n in range(5)]
    await gatherResults(
        [
            Deferred.fromCoroutine(Tags(each.account_data).put(ALICE, room.room_id, name, {"order": 0.5}))
            for each, name in zip((process, other) * 3, names, strict=False)
        ]
    )
    tags = Tags((await Process.open(database)).account_data)
    assert set(await tags.of(ALICE, room.room_id)) == set(names)
    await tags.remove(ALICE, room.room_id, names[0])
    await tags.remove(ALICE, room.room_id, "u.never")
    assert set(await tags.of(ALICE, room.room_id)) == set(names[1:])


@pytest.mark.parametrize("order", ["0.5", True, -0.1, 1.5, []])
async def test_an_order_is_a_number_between_0_and_1(database: Database, order: object) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    with pytest.raises(BadJson):
        await Tags(process.account_data).put(ALICE, room.room_id, "u.a", {"order": order})
    with pytest.raises(InvalidParam):
        await Tags(process.account_data).put(ALICE, room.room_id, "u." + "ä" * 127, {})


async def test_ignored_users(database: Database) -> None:
    """The list counts from the moment it is written; what is no list ignores nobody; nobody ignores themselves."""
    process = await Process.open(database)
    assert await process.account_data.ignored(ALICE) == frozenset()
    await process.account_data.put(ALICE, IGNORED_USER_LIST, {"ignored_users": {BOB: {}, ALICE: {}}})
    assert await process.account_data.ignored(ALICE) == {BOB}
    assert await process.account_data.ignored(BOB) == frozenset()
    await process.account_data.put(ALICE, IGNORED_USER_LIST, {})
    assert await process.account_data.ignored(ALICE) == frozenset()
    malformed: list[Any] = [[], {BOB: 1}, {"bob": {}}]
    for users in malformed:
        with pytest.raises(BadJson):
            await process.account_data.put(ALICE, IGNORED_USER_LIST, {"ignored_users": users})


async def test_hostile_content_harms_nobody_elses_commit(database: Database) -> None:
    """NUL, surrogate pairs and odd numbers in content come back as they were."""
    process = await Process.open(database)
    content: dict[str, Any] = {"a\0b": "\0", "emoji": "\U0001f600", "deep": [[{}]], "float": 1e300}
    await gatherResults(
        [
            Deferred.fromCoroutine(process.account_data.put(ALICE, "org.example.a", content)),
            Deferred.fromCoroutine(process.account_data.put(BOB, "org.example.a", {"n": 1})),
        ]
    )
    fresh = await Process.open(database)
    assert await fresh.account_data.get(ALICE, "org.example.a") == content
    assert await fresh.account_data.get_of_users([ALICE, BOB, "@no:body"], "org.example.a") == {
        ALICE: content,
        BOB: {"n": 1},
    }


async def test_erasure(database: Database) -> None:
    """Closing an account keeps account data unless the user asked to be forgotten."""
    process = await Process.open(database)
    await process.account_data.put(ALICE, "org.example.a", {"n": 1})
    await process.account_data.depart(ALICE, erase=False)
    assert await process.account_data.get(ALICE, "org.example.a") == {"n": 1}
    await process.account_data.depart(ALICE, erase=True)
    assert await process.account_data.get(ALICE, "org.example.a") is None


async def test_who_takes_no_invites(database: Database) -> None:
    """Only `block` blocks; anything else means invites as usual."""
    process = await Process.open(database)
    permissions = InvitePermissions(process.account_data)
    for content, blocked in (
        ({"default_action": "block"}, True),
        ({"default_action": "allow"}, False),
        ({}, False),
    ):
        await process.account_data.put(BOB, "m.invite_permission_config", content)
        assert bool(await permissions.blocking(ALICE, [BOB, "@none:localhost"])) is blocked
        assert await permissions.blocks_all(BOB) is blocked


async def test_settings_follow_a_room_that_is_replaced(database: Database) -> None:
    """Tags, the list of direct chats and push rules; doing it again changes nothing."""
    process = await Process.open(database)
    old, new = await process.engine.new_room(), await process.engine.new_room()
    data = process.account_data
    rules = PushRules(data)
    await rules.put(ALICE, "room", PushRule(old.room_id, ("notify",)))
    await Tags(data).put(ALICE, old.room_id, "m.favourite", {"order": 0.1})
    await data.put(ALICE, "m.direct", {BOB: [old.room_id], "@c:d": ["!other:localhost"], "odd": 1})
    for _ in range(2):
        await CarryOver(data, rules).carry_over(ALICE, old.room_id, new.room_id)
        assert await Tags(data).of(ALICE, new.room_id) == {"m.favourite": {"order": 0.1}}
        direct = {BOB: [old.room_id, new.room_id], "@c:d": ["!other:localhost"], "odd": 1}
        assert await data.get(ALICE, "m.direct") == direct
        followed = await rules.rule(ALICE, "room", new.room_id)
        assert followed == replace(await rules.rule(ALICE, "room", old.room_id), rule_id=new.room_id)


async def test_successors_that_are_joined_at_once_are_all_direct_chats(database: Database) -> None:
    """The list of them is one entry, extended for each."""
    process, other = await Process.open(database), await Process.open(database)
    old = [await process.engine.new_room() for _ in range(2)]
    new = [await process.engine.new_room() for _ in range(2)]
    await process.account_data.put(ALICE, "m.direct", {BOB: [room.room_id for room in old]})
    await other.reached(process.engine.stream.position)
    for each in (process, other):  # what is in memory is looked at by both before either writes
        assert await each.account_data.find(ALICE, old[0].room_id, "m.tag") is None
    followers = [
        CarryOver(each.account_data, PushRules(each.account_data)).carry_over(
            ALICE, before.room_id, after.room_id
        )
        for each, before, after in zip((process, other), old, new, strict=True)
    ]
    await gatherResults([Deferred.fromCoroutine(each) for each in followers])
    direct = await (await Process.open(database)).account_data.get(ALICE, "m.direct")
    assert direct is not None and set(direct[BOB]) == {room.room_id for room in (*old, *new)}


def test_what_users_write_stays_within_the_budget() -> None:
    """Also while nobody's data is read."""
    cache = UserDataCache(100_000)
    for number in range(20):
        cache.keep(f"@u{number}:localhost", UserData(()))
    for number in range(20):
        for entry in range(20):
            content = {"text": "x" * 300}
            cache.landed(f"@u{number}:localhost", (0, f"org.example.{entry}"), content, 100 + entry)
            assert cache.weight <= 100_000
    assert cache.weight > 50_000


def test_a_late_answer_hides_nothing_later() -> None:
    """A write of this process of which it hears after a later one of another was read."""
    cache, key = UserDataCache(), (0, "org.example.a")
    cache.keep(ALICE, UserData([AccountDataEntry(*key, '{"n": 11}', 11)]))
    cache.landed(ALICE, key, {"n": 10}, 10)
    data = cache.get(ALICE)
    assert data is not None and data.entries[key].content == {"n": 11}
    assert [kept.content for _, kept in data.between(10, 11)] == [{"n": 11}]
    cache.landed(ALICE, key, {"n": 12}, 12)
    assert data.entries[key].content == {"n": 12}
