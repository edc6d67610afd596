# SPDX-License-Identifier: Apache-2.0
"""Profiles: what may stand in them, where changes go, and that they end with the account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from homeserver.directory import DirectoryIndex
from homeserver.errors import InvalidParam, KeyTooLarge, MatrixError, NotFound, ProfileTooLarge
from homeserver.profiles import Profiles
from homeserver.profiles.fields import as_dict, with_field, without_field
from storage.database import Database, Transaction
from storage.profiles import Profile, ProfileStore
from storage.user_directory import UserDirectoryStore
from storage.users import NewUser, UserStore

ALICE = "@alice:localhost"
AVATAR = "mxc://localhost/abc"


@dataclass
class World:
    """Profiles on a database with one account, and what was told of them."""

    profiles: Profiles
    users: UserStore
    propagated: list[tuple[str, Mapping[str, str | None]]] = field(default_factory=list)
    watched: list[Mapping[str, str | None]] = field(default_factory=list)

    @classmethod
    async def open(cls, database: Database) -> World:
        users = UserStore(database)

        async def create(txn: Transaction) -> None:
            await users.create_txn(txn, NewUser(user_id=ALICE, password_hash=None), 0)

        await database.transaction("test", create)
        propagated: list[tuple[str, Mapping[str, str | None]]] = []
        watched: list[Mapping[str, str | None]] = []

        class Propagation:
            async def propagate_profile(self, user_id: str, changes: Mapping[str, str | None]) -> None:
                propagated.append((user_id, changes))

        class Watcher:
            def profile_changed(self, user_id: str, names: Mapping[str, str | None]) -> None:
                watched.append(names)

        profiles = Profiles(
            database=database,
            store=ProfileStore(database),
            index=DirectoryIndex(UserDirectoryStore(database)),
            propagation=Propagation(),
            watcher=Watcher(),
        )
        return cls(profiles, users, propagated, watched)


async def test_a_new_account_is_named_like_its_localpart(database: Database) -> None:
    world = await World.open(database)
    assert await world.profiles.get(ALICE) == {}
    await world.profiles.arrive(ALICE, None)
    assert await world.profiles.get(ALICE) == {"displayname": "alice"}
    await world.profiles.arrive(ALICE, "Alice " + "x" * 300)
    assert len(await world.profiles.get_field(ALICE, "displayname")) == 256


async def test_fields_are_set_read_and_deleted(database: Database) -> None:
    """Any JSON in custom fields; rooms hear of names only."""
    world = await World.open(database)
    values: dict[str, Any] = {
        "displayname": "Älice \U0001f600",
        "avatar_url": AVATAR,
        "m.tz": "Europe/Berlin",
        "org.example.a": {"deep": [None, 1.5, "\0"]},
        "org.example.null": None,
    }
    for key, value in values.items():
        await world.profiles.set_field(ALICE, key, value)
        assert await world.profiles.get_field(ALICE, key) == value
    assert await world.profiles.get(ALICE) == values
    names = {"displayname": values["displayname"], "avatar_url": AVATAR}
    assert world.propagated == [(ALICE, {key: value}) for key, value in names.items()]
    assert world.watched[-1] == names
    assert await world.profiles.member_profiles([ALICE, "@no:body"]) == {ALICE: names}
    for key in values:
        await world.profiles.delete_field(ALICE, key)
        with pytest.raises(NotFound):
            await world.profiles.get_field(ALICE, key)
    assert await world.profiles.get(ALICE) == {}
    assert world.propagated[-2:] == [(ALICE, {"displayname": None}), (ALICE, {"avatar_url": None})]


async def test_simultaneous_changes_are_all_made(database: Database) -> None:
    """Also the very first ones, when there is no row to lock."""
    world = await World.open(database)
    await gatherResults(
        [Deferred.fromCoroutine(world.profiles.set_field(ALICE, f"org.example.f{n}", n)) for n in range(4)]
    )
    assert await world.profiles.get(ALICE) == {f"org.example.f{n}": n for n in range(4)}


async def test_of_two_changes_the_one_that_stands_is_told_last(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the earlier one's answer arrives when the later one is all done, and so it is told after it."""
    world = await World.open(database)
    transaction = database.transaction
    stands: Deferred[None] = Deferred()
    late: Deferred[None] = Deferred()

    async def answers_late(name: str, work: Any) -> Any:
        monkeypatch.setattr(database, "transaction", transaction)
        result = await transaction(name, work)
        stands.callback(None)
        await late
        return result

    await world.profiles.set_field(ALICE, "avatar_url", AVATAR)
    monkeypatch.setattr(database, "transaction", answers_late)
    earlier = Deferred.fromCoroutine(world.profiles.set_field(ALICE, "displayname", "Earlier"))
    await stands
    await world.profiles.set_field(ALICE, "displayname", "Later")
    await world.profiles.delete_field(ALICE, "avatar_url")
    late.callback(None)
    await earlier
    shown: dict[str, str | None] = {}
    for _, changes in world.propagated:
        shown.update(changes)
    assert shown == world.watched[-1] == {"displayname": "Later", "avatar_url": None}


async def test_a_closed_account_has_no_profile(database: Database) -> None:
    """Neither as data nor to look at; unknown users are answered alike."""
    world = await World.open(database)
    await world.profiles.arrive(ALICE, None)
    await world.users.deactivate(ALICE, erase=False, now=0, until=0)
    for _ in range(2):
        await world.profiles.depart(ALICE, erase=False)
    errors = []
    for user_id in (ALICE, "@nobody:localhost", "@far:away.example"):
        with pytest.raises(NotFound) as caught:
            await world.profiles.get(user_id)
        errors.append(caught.value.as_dict())
    assert errors[0] == errors[1] == errors[2]
    assert await world.profiles.member_profiles([ALICE]) == {}


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("displayname", 1, InvalidParam),
        ("displayname", None, InvalidParam),
        ("displayname", "x" * 257, InvalidParam),
        ("displayname", "a\0b", InvalidParam),
        ("avatar_url", "https://example.org/a.png", InvalidParam),
        ("avatar_url", "mxc://localhost/" + "x" * 1000, InvalidParam),
        ("avatar_url", {}, InvalidParam),
        ("m.tz", 1, InvalidParam),
        ("Upper", 1, InvalidParam),
        ("", 1, InvalidParam),
        ("1st", 1, InvalidParam),
        ("x" * 256, 1, KeyTooLarge),
        ("org.example.big", "x" * 65_536, ProfileTooLarge),
    ],
)
def test_what_no_profile_takes(key: str, value: object, error: type[MatrixError]) -> None:
    with pytest.raises(error):
        with_field(Profile(), key, value)


def test_the_limit_counts_the_whole_profile() -> None:
    """64 KiB in all: a profile of exactly that size passes, a byte more does not, and less is always allowed again."""
    profile = with_field(Profile(), "org.example.a", "x" * 40_000)
    room = 65_536 - len('{"org.example.a":"","org.example.b":""}') - 40_000
    full = with_field(profile, "org.example.b", "x" * room)
    with pytest.raises(ProfileTooLarge):
        with_field(profile, "org.example.b", "x" * (room + 1))
    with pytest.raises(ProfileTooLarge):
        with_field(full, "displayname", "A")
    assert with_field(without_field(full, "org.example.a"), "displayname", "A").displayname == "A"


@pytest.mark.parametrize("key", ["displayname", "avatar_url"])
def test_an_empty_name_is_none(key: str) -> None:
    """As clients removed theirs before there was a way to."""
    named = with_field(with_field(Profile(), "displayname", "A"), "avatar_url", AVATAR)
    assert key not in as_dict(with_field(named, key, ""))
    assert with_field(named, key, "") == without_field(named, key)
