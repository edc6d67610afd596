# SPDX-License-Identifier: Apache-2.0
"""Upgrading rooms between versions."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from homeserver.errors import BadState, Forbidden, InvalidParam, UnsupportedRoomVersion, UserSuspended
from homeserver.protocol.power_levels import CREATOR_LEVEL
from homeserver.rooms.creation.wishes import InitialState
from homeserver.rooms.engine import Room
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, CAROL
from tests.rooms.services_fixture import House, User, alice, bob, carol

CLUB = [{"type": "m.room_membership", "room_id": "!club:localhost"}]

STATE: dict[str, dict[str, Any]] = {
    "m.room.server_acl": {"allow": ["*"], "deny": ["evil.org"]},
    "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2"},
    "m.room.name": {"name": "Tea"},
    "m.room.avatar": {"url": "mxc://localhost/tea"},
    "m.room.topic": {"topic": "leaves"},
    "m.room.guest_access": {"guest_access": "forbidden"},
    "m.room.history_visibility": {"history_visibility": "joined"},
    "m.room.join_rules": {"join_rule": "restricted", "allow": CLUB},
}


@pytest.mark.parametrize(
    ("old", "new"), [("9", "10"), ("10", "11"), ("11", "12"), ("12", "12"), ("12", "11")]
)
async def test_an_upgrade(database: Database, old: str, new: str) -> None:
    """State, bans, levels, aliases and publication pass over; the old room ends and falls silent."""
    house = await House.open(database)
    room_id = await house.create(
        version=old,
        visibility="public",
        alias_localpart="tea",
        creation_content={"m.federate": False},
        initial_state=[InitialState(kind, "", content) for kind, content in STATE.items()],
        power_levels={"users": {BOB: 50} | ({} if old == "12" else {ALICE: 100}), "invite": 20},
    )
    await house.rooms.banning.ban(alice, room_id, CAROL, reason="rude")
    await house.rooms.inviting.invite(alice, room_id, BOB)
    await house.rooms.joining.join(bob, room_id)
    before = await house.head(room_id)
    new_id = await house.rooms.upgrade.upgrade(alice, room_id, new)

    after, ended = await house.head(new_id), await house.head(room_id)
    create = after.content("m.room.create")
    assert (create["room_version"], create["m.federate"]) == (new, False)
    assert create["predecessor"]["room_id"] == room_id
    if new != "12":
        assert create["predecessor"]["event_id"] == before.extremities[0][0]
    for kind, content in STATE.items():
        assert after.content(kind) == content
    assert after.membership(CAROL) == "ban"
    assert (await house.member_content(new_id, CAROL))["reason"] == "rude"
    assert after.membership(BOB) is None
    users = after.content("m.room.power_levels")["users"]
    assert users == ({BOB: 50} if new == "12" else {ALICE: 150 if old == "12" else 100, BOB: 50})
    assert after.power_levels.invite == 20
    assert after.content("m.room.canonical_alias") == {"alias": "#tea:localhost"}
    assert await house.rooms.aliases.resolve("#tea:localhost") == new_id
    assert await house.rooms.directory.is_published(new_id)
    assert not await house.rooms.directory.is_published(room_id)

    assert ended.content("m.room.tombstone")["replacement_room"] == new_id
    assert ended.content("m.room.canonical_alias") == {}
    levels = ended.power_levels
    assert (levels.named_level("events_default"), levels.invite) == (50, 50)


async def test_members_take_their_settings_along(database: Database) -> None:
    """Once they join the new room, if they were in the old one."""
    house = await House.open(database)
    room_id = await house.public(bob)
    new_id = await house.rooms.upgrade.upgrade(alice, room_id, "12")
    await house.rooms.joining.join(bob, new_id)
    await house.rooms.joining.join(bob, new_id)
    await house.rooms.joining.join(carol, new_id)
    assert house.world.carried == [(ALICE, room_id, new_id), (BOB, room_id, new_id)]


async def test_creators_are_named_anew(database: Database) -> None:
    """Version 12's additional creators are those of the request; older versions ignore them."""
    house = await House.open(database)
    room_id = await house.create(
        version="11", power_levels={"users": {ALICE: 100, BOB: 70}}, preset="public_chat"
    )
    twelve = await house.rooms.upgrade.upgrade(alice, room_id, "12", [BOB, ALICE])
    head = await house.head(twelve)
    assert head.content("m.room.create")["additional_creators"] == [BOB]
    assert head.content("m.room.power_levels")["users"] == {}
    assert head.power_levels.user_level(BOB) == CREATOR_LEVEL
    again = await house.head(await house.rooms.upgrade.upgrade(alice, twelve, "12"))
    assert "additional_creators" not in again.content("m.room.create")
    assert again.power_levels.user_level(BOB) == 0
    eleven = await house.rooms.upgrade.upgrade(alice, again.room_id, "11", [BOB])
    assert "additional_creators" not in (await house.head(eleven)).content("m.room.create")


async def test_a_moderator_upgrades_and_the_room_is_as_it_was(database: Database) -> None:
    """Whoever may send the tombstone may upgrade, though not all that is carried over could they have sent."""
    house = await House.open(database)
    room_id = await house.create(
        version="11",
        preset="public_chat",
        power_levels={
            "users": {ALICE: 100, BOB: 50},
            "events": {"m.room.tombstone": 50, "m.room.server_acl": 100},
        },
        initial_state=[InitialState("m.room.server_acl", "", {"allow": ["*"]})],
    )
    await house.rooms.joining.join(bob, room_id)
    head = await house.head(await house.rooms.upgrade.upgrade(bob, room_id, "11"))
    assert head.content("m.room.server_acl") == {"allow": ["*"]}
    assert head.content("m.room.power_levels")["users"] == {ALICE: 100, BOB: 50}
    assert head.power_levels.user_level(BOB) == 50


async def test_a_space_keeps_its_children(database: Database) -> None:
    """And its type; children that were removed are not brought back."""
    house = await House.open(database)
    room_id = await house.create(
        creation_content={"type": "m.space"},
        initial_state=[
            InitialState("m.space.child", "!a:localhost", {"via": ["localhost"]}),
            InitialState("m.space.child", "!b:localhost", {}),
            InitialState("org.example.x", "", {"x": 1}),
        ],
    )
    head = await house.head(await house.rooms.upgrade.upgrade(alice, room_id, "12"))
    assert head.text("m.room.create", "type") == "m.space"
    assert head.content("m.space.child", "!a:localhost") == {"via": ["localhost"]}
    assert head.state_event("m.space.child", "!b:localhost") is None
    assert head.state_event("org.example.x") is None


async def test_what_is_refused_makes_no_room(database: Database) -> None:
    """Without the power, the membership, a known version or sensible creators."""
    house = await House.open(database)
    room_id = await house.public(bob)
    upgrade = house.rooms.upgrade.upgrade
    for actor, version, creators, error in (
        (bob, "12", (), Forbidden),
        (carol, "12", (), Forbidden),
        (User(ALICE, is_suspended=True), "12", (), UserSuspended),
        (alice, "13", (), UnsupportedRoomVersion),
        (alice, "12", ("bob",), InvalidParam),
    ):
        with pytest.raises(error):
            await upgrade(actor, room_id, version, creators)
        standings = await house.engine.user_rooms.of(actor.user_id)
        assert all(standing.room_id == room_id for standing in standings.values())
    assert (await house.head(room_id)).state_event("m.room.tombstone") is None


async def test_a_downgrade_forgets_rules_the_version_does_not_know(database: Database) -> None:
    """A join rule the new version lacks becomes `invite`, which lets nobody in who could not come before."""
    house = await House.open(database)
    room_id = await house.create(
        initial_state=[InitialState("m.room.join_rules", "", {"join_rule": "restricted", "allow": CLUB})]
    )
    head = await house.head(await house.rooms.upgrade.upgrade(alice, room_id, "7"))
    assert head.content("m.room.join_rules") == {"join_rule": "invite"}


async def test_an_upgrade_asked_for_four_times_at_once_makes_one_room(database: Database) -> None:
    """An impatient client's retries get the room that the first is making."""
    house = await House.open(database)
    room_id = await house.public()
    upgrades = [Deferred.fromCoroutine(house.rooms.upgrade.upgrade(alice, room_id, "12")) for _ in range(4)]
    assert len(set(await gatherResults(upgrades))) == 1


async def test_upgrades_at_two_processes_replace_the_room_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was late learns so and is in no second room; later the room may be upgraded again."""
    slow, quick = await House.open(database), await House.open(database)
    room_id = await slow.public()
    create, made = slow.engine.engine.create, []

    async def late(*args: Any, **options: Any) -> Room | None:
        made.append(await quick.rooms.upgrade.upgrade(alice, room_id, "12"))
        room = await create(*args, **options)
        assert room is not None
        made.append(room.room_id)
        return room

    with monkeypatch.context() as patch:
        patch.setattr(slow.engine.engine, "create", late)
        with pytest.raises(BadState):
            await slow.rooms.upgrade.upgrade(alice, room_id, "12")
    first, second = made
    assert (await slow.head(room_id)).content("m.room.tombstone")["replacement_room"] == first
    assert (await slow.head(second)).membership(ALICE) == "leave"
    third = await slow.rooms.upgrade.upgrade(alice, room_id, "12")
    assert (await slow.head(room_id)).content("m.room.tombstone")["replacement_room"] == third


async def test_an_upgrade_that_meets_its_own_tombstone_is_not_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit was taken for lost, and landed: the room is written once more."""
    house = await House.open(database)
    room_id = await house.public()
    write = house.engine.engine.write

    async def twice(*args: Any, **options: Any) -> Any:
        await write(*args, **options)
        return await write(*args, **options)

    monkeypatch.setattr(house.engine.engine, "write", twice)
    new_id = await house.rooms.upgrade.upgrade(alice, room_id, "12")
    assert (await house.head(room_id)).content("m.room.tombstone")["replacement_room"] == new_id
    assert (await house.head(new_id)).membership(ALICE) == "join"
