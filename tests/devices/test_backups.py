# SPDX-License-Identifier: Apache-2.0
"""How large backups of room keys may become, and how they are given back whole."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from homeserver.devices import backup_reading, backups
from homeserver.devices.backup_reading import LargeReads
from homeserver.devices.backups import KeyBackups, Summary
from homeserver.errors import LimitExceeded, NotFound, TooLarge
from storage.database import Database, Transaction
from storage.key_backups import (
    PORTION,
    PORTION_BYTES,
    BackedUpKey,
    Change,
    KeyBackupStore,
    Place,
    RoomPortion,
)
from tests.rooms.engine_fixture import ALICE, BOB

_RECOUNT = """
SELECT keys, bytes, (SELECT count(*) FROM backed_up_keys k WHERE k.user_id = b.user_id AND k.version = b.version),
    (SELECT coalesce(sum(128 + octet_length(room_id) + octet_length(session_id) + octet_length(session_data)), 0)
     FROM backed_up_keys k WHERE k.user_id = b.user_id AND k.version = b.version)
FROM key_backups b
"""


class Store(KeyBackupStore):
    """Notes how much each portion brought, and may do something in between."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.portions: list[tuple[int, int]] = []
        self.between: list[Any] = []
        self.before_put: list[Any] = []

    async def put_keys_txn(
        self, txn: Transaction, user_id: str, version: int, keys: Sequence[BackedUpKey]
    ) -> Change | None:
        if self.before_put:
            await self.before_put.pop()()
        return await super().put_keys_txn(txn, user_id, version, keys)

    async def portion(
        self, user_id: str, version: int, room_id: str | None, after: Place | None
    ) -> tuple[list[RoomPortion], Place | None]:
        found, last = await super().portion(user_id, version, room_id, after)
        self.portions.append((sum(each.keys for each in found), sum(len(each.members) for each in found)))
        if after is not None and self.between:
            await self.between.pop()()
        return found, last


class World:
    """Two users and their backups."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = Store(database)
        self.backups = KeyBackups(database, self.store)

    @classmethod
    async def open(cls, database: Database) -> World:
        for user in (ALICE, BOB):
            await database.execute("user", "INSERT INTO users (user_id, created_ts) VALUES (%s, 0)", (user,))
        return cls(database)

    async def create(self, user_id: str = ALICE) -> str:
        return str(await self.backups.create(user_id, "a", {}))

    async def put(self, version: str, *keys: BackedUpKey, user_id: str = ALICE) -> Summary:
        return await self.backups.put(user_id, version, keys)

    async def counted(self) -> bool:
        """Whether what stands beside each backup is what it has."""
        rows = await self.database.fetch("recount", _RECOUNT)
        return all((keys, size) == counted for keys, size, *rest in rows for counted in [tuple(rest)])


def key(room_id: str, session_id: str, size: int = 10, *, first: int = 0) -> BackedUpKey:
    """A key whose session data has so many bytes, at least ten."""
    data = orjson.dumps({"d": "x" * (size - 8)}).decode()
    return BackedUpKey(room_id, session_id, first, 0, False, data)


def shown(keys: Sequence[BackedUpKey]) -> dict[str, Any]:
    """As the specification has them."""
    rooms: dict[str, Any] = {}
    for each in keys:
        sessions = rooms.setdefault(each.room_id, {"sessions": {}})["sessions"]
        sessions[each.session_id] = {
            "first_message_index": each.first_message_index,
            "forwarded_count": each.forwarded_count,
            "is_verified": each.is_verified,
            "session_data": orjson.loads(each.session_data),
        }
    return {"rooms": rooms}


async def test_what_stands_beside_a_backup_is_what_it_has(database: Database) -> None:
    """Whatever comes, is replaced by a better one or goes; by whichever release."""
    world = await World.open(database)
    chance = random.Random(7)
    versions = {user: await world.create(user) for user in (ALICE, BOB)}
    for _ in range(40):
        user = chance.choice((ALICE, BOB))
        rooms, sessions = chance.choices(["!a", "!ö", "!c"], k=8), chance.choices("stu\N{SNOWMAN}", k=8)
        keys = {
            place: key(*place, chance.randrange(10, 3000), first=chance.randrange(5))
            for place in zip(rooms, sessions, strict=True)
        }
        match chance.randrange(5):
            case 0:
                await world.backups.remove(user, versions[user], rooms[0], chance.choice((None, sessions[0])))
            case 1:  # as any process may, one of the release before too
                await database.execute(
                    "delete",
                    "DELETE FROM backed_up_keys WHERE user_id = %s AND room_id = %s",
                    (user, rooms[0]),
                )
            case _:
                await world.put(versions[user], *keys.values(), user_id=user)
        assert await world.counted()
    await world.backups.delete(ALICE, versions[ALICE])
    assert await world.counted()
    assert (await world.backups.remove(BOB, versions[BOB])).count == 0
    assert await world.counted()


async def test_a_backup_has_bounds(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would go beyond is refused, and leaves no trace."""
    monkeypatch.setattr(backups, "MOST_BYTES", 10_000)
    monkeypatch.setattr(backups, "MOST_KEYS", 4)
    world = await World.open(database)
    version = await world.create()
    kept = await world.put(version, key("!a", "1", 4000), key("!a", "2", 4000))
    with pytest.raises(TooLarge):
        await world.put(version, key("!a", "0"), key("!a", "3", 4000))
    with pytest.raises(TooLarge):
        await world.put(version, *(key("!b", str(number)) for number in range(3)))
    backup = await world.backups.get(ALICE)
    assert (backup.etag, backup.count) == (kept.etag, kept.count)
    assert await world.put(version, key("!a", "1", 4000), key("!a", "2", 4000)) == kept, "nothing is new"
    assert (await world.put(version, key("!b", "1"), key("!b", "2"))).count == 4


async def test_what_is_beyond_the_bounds_may_become_smaller(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup from before there were any."""
    world = await World.open(database)
    version = await world.create()
    await world.put(version, *(key("!a", str(number), 4000, first=5) for number in range(4)))
    monkeypatch.setattr(backups, "MOST_BYTES", 10_000)
    monkeypatch.setattr(backups, "MOST_KEYS", 3)
    with pytest.raises(TooLarge):
        await world.put(version, key("!a", "0", 5000))
    assert (await world.put(version, key("!a", "0", 3000))).count == 4
    assert (await world.backups.remove(ALICE, version, "!a", "0")).count == 3


async def test_the_backups_of_a_user_have_bounds_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until one of them is deleted; and no one else's count."""
    monkeypatch.setattr(backups, "MOST_BYTES", 10_000)
    monkeypatch.setattr(backups, "MOST_BYTES_OF_USER", 12_000)
    world = await World.open(database)
    first = await world.create()
    await world.put(first, key("!a", "1", 9000))
    others = await world.create(BOB)
    second = await world.create()
    with pytest.raises(TooLarge, match="delete one"):
        await world.put(second, key("!a", "1", 9000))
    await world.put(others, key("!a", "1", 9000), user_id=BOB)
    await world.backups.delete(ALICE, first)
    assert (await world.put(second, key("!a", "1", 9000))).count == 1


async def test_many_keys_are_read_in_portions(database: Database) -> None:
    """Of a number and of a size; rooms begin, go on and end anywhere in one. Names are whatever clients call them."""
    world = await World.open(database)
    version = await world.create()
    names = ('!"quoted\\', "!ö\n", "!large", "!", "")
    keys = [key(name, f"s{number}\N{SNOWMAN}\\") for name in names for number in range(PORTION // 2 - 7)]
    keys += [key("!large", f"large {number}", 60_000) for number in range(60)]
    keys.append(key("!", ""))
    for start in range(0, len(keys), 500):
        await world.put(version, *keys[start : start + 500])
    assert orjson.loads(await world.backups.keys(ALICE, version)) == shown(keys)
    assert len(world.store.portions) > 5
    assert all(count <= PORTION for count, _ in world.store.portions)
    assert all(size < PORTION_BYTES + 200_000 for _, size in world.store.portions)
    for name in names:
        found = orjson.loads(await world.backups.keys(ALICE, version, name))
        assert found == shown(keys)["rooms"][name]
    assert orjson.loads(await world.backups.keys(ALICE, version, "!none")) == {"sessions": {}}


async def test_a_backup_of_just_a_portion(database: Database) -> None:
    """What follows it is empty, which is no member."""
    world = await World.open(database)
    version = await world.create()
    keys = [key("!a", str(number)) for number in range(PORTION)]
    await world.put(version, *keys)
    assert orjson.loads(await world.backups.keys(ALICE, version)) == shown(keys)
    assert orjson.loads(await world.backups.keys(ALICE, version, "!a")) == shown(keys)["rooms"]["!a"]


async def test_what_is_deleted_meanwhile_is_not_shown_in_part(database: Database) -> None:
    world = await World.open(database)
    version = await world.create()
    await world.put(version, *(key("!a", str(number)) for number in range(2 * PORTION)))
    world.store.between.append(lambda: world.backups.delete(ALICE, version))
    with pytest.raises(NotFound):
        await world.backups.keys(ALICE, version)


async def test_a_deleted_backup_keeps_nothing(database: Database) -> None:
    """Of an upload that was under way either."""
    world = await World.open(database)
    version = await world.create()
    deleting: list[Deferred[None]] = []

    async def delete() -> None:
        """Until it is done, or waits for the upload."""
        deleting.append(Deferred.fromCoroutine(world.backups.delete(ALICE, version)))
        while not deleting[0].called:
            row = await database.fetch_one(
                "waits",
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            if row is not None:
                break

    world.store.before_put.append(delete)
    await world.put(version, key("!a", "1"))
    await deleting[0]
    assert await database.fetch("left", "SELECT FROM backed_up_keys") == []


async def test_more_than_one_answer_holds_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup from before there were bounds; its rooms can still be had."""
    world = await World.open(database)
    version = await world.create()
    keys = [key(f"!{number % 50}", str(number)) for number in range(2 * PORTION)]
    await world.put(version, *keys)
    monkeypatch.setattr(backup_reading, "MOST_BYTES", 100_000)
    with pytest.raises(TooLarge):
        await world.backups.keys(ALICE, version)
    assert orjson.loads(await world.backups.keys(ALICE, version, "!7")) == shown(keys)["rooms"]["!7"]


async def test_one_large_answer_of_a_user_is_made_at_a_time() -> None:
    """And few of all; who waits is served in the end, unless too much waits already."""
    large = LargeReads()
    running: list[str] = []
    most: list[int] = []
    held: Deferred[None] = Deferred()

    def begin(user_id: str) -> Deferred[bytes]:
        async def work() -> bytes:
            running.append(user_id)
            most.append(len(running))
            if not held.called:
                await held
            running.remove(user_id)
            return user_id.encode()

        return Deferred.fromCoroutine(large.make(user_id, work))

    users = [ALICE] * 10 + [BOB, "@carol:localhost", "@dave:localhost"]
    made = [begin(user) for user in users]
    assert running == [ALICE, BOB]
    with pytest.raises(LimitExceeded):
        await begin(ALICE)
    held.callback(None)
    assert [(await each).decode() for each in made] == users
    assert max(most) == 2


async def test_no_more_is_made_than_can_be_sent() -> None:
    """What was made lies in memory until it is sent. Who comes meanwhile is told how long to wait."""
    clock = Clock()
    large = LargeReads(clock.seconds)
    answer = bytes(backup_reading.MOST_BYTES)

    async def work() -> bytes:
        return answer

    for user in (ALICE, BOB):
        assert await large.make(user, work) is answer
    with pytest.raises(LimitExceeded) as refused:
        await large.make(ALICE, work)
    clock.advance(refused.value.retry_after_ms / 1000)
    assert await large.make(ALICE, work) is answer


async def test_who_goes_away_leaves_the_turn_to_others() -> None:
    """Whether the answer was being made or waited for."""
    large = LargeReads()

    async def never() -> bytes:
        await Deferred()
        return b""

    async def at_once() -> bytes:
        return b"{}"

    lost = [Deferred.fromCoroutine(large.make(user, never)) for user in (ALICE, ALICE, BOB, BOB)]
    waiting = [Deferred.fromCoroutine(large.make(user, at_once)) for user in (ALICE, "@carol:localhost")]
    assert not any(each.called for each in waiting)
    for each in lost:
        each.addErrback(lambda _failure: None)
        each.cancel()
    assert [await each for each in waiting] == [b"{}", b"{}"]
