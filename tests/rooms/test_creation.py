# SPDX-License-Identifier: Apache-2.0
"""Creating rooms: what each option makes of them, and what is refused."""

from __future__ import annotations

from typing import Any, Literal

import orjson
import pytest
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from homeserver.errors import (
    BadAlias,
    Forbidden,
    InvalidParam,
    InvalidRoomState,
    InviteBlocked,
    MatrixError,
    RoomInUse,
    Unknown,
    UnsupportedRoomVersion,
    UserSuspended,
)
from homeserver.protocol.power_levels import CREATOR_LEVEL
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.rooms.creation.wishes import InitialState
from storage.database import Database
from storage.events import TimelinePlace
from tests.rooms.engine_fixture import ALICE, BOB, CAROL
from tests.rooms.services_fixture import House, User, alice, bob


async def timeline(house: House, room_id: str) -> list[tuple[str, str | None]]:
    room = await house.room(room_id)
    events = await house.engine.events.page(room.key, TimelinePlace(-1, 0), backwards=False, limit=100)
    return [(event.type, event.state_key) for event in events]


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_the_events_come_in_the_order_of_the_specification(database: Database, version: str) -> None:
    """createRoom, steps 1 to 8, in every room version."""
    house = await House.open(database)
    room_id = await house.create(
        version=version,
        alias_localpart="tea",
        name="Tea",
        topic="leaves",
        invite=(BOB, CAROL),
        initial_state=(
            InitialState("m.room.encryption", "", {"algorithm": "m.megolm.v1.aes-sha2"}),
            InitialState("m.room.name", "", {"name": "overridden"}),
            InitialState("m.room.join_rules", "", {"join_rule": "public"}),
        ),
    )
    assert await timeline(house, room_id) == [
        ("m.room.create", ""),
        ("m.room.member", ALICE),
        ("m.room.power_levels", ""),
        ("m.room.canonical_alias", ""),
        ("m.room.history_visibility", ""),
        ("m.room.guest_access", ""),
        ("m.room.encryption", ""),
        ("m.room.join_rules", ""),
        ("m.room.name", ""),
        ("m.room.topic", ""),
        ("m.room.member", BOB),
        ("m.room.member", CAROL),
    ]
    head = await house.head(room_id)
    assert head.join_rule == "public"
    assert head.text("m.room.name", "name") == "Tea"
    assert head.content("m.room.topic") == {
        "topic": "leaves",
        "m.topic": {"m.text": [{"body": "leaves", "mimetype": "text/plain"}]},
    }
    assert head.content("m.room.create").get("creator") == (ALICE if int(version) < 11 else None)
    assert await house.rooms.aliases.resolve("#tea:localhost") == room_id


@pytest.mark.parametrize(
    ("wishes", "join_rule", "guest_access", "published"),
    [
        ({}, "invite", "can_join", False),
        ({"visibility": "public"}, "public", "forbidden", True),
        ({"visibility": "public", "preset": "private_chat"}, "invite", "can_join", True),
        ({"preset": "public_chat"}, "public", "forbidden", False),
        ({"preset": "trusted_private_chat"}, "invite", "can_join", False),
    ],
)
async def test_presets(
    database: Database, wishes: dict[str, Any], join_rule: str, guest_access: str, published: bool
) -> None:
    """Each preset's three settings, and visibility choosing the preset."""
    house = await House.open(database)
    room_id = await house.create(**wishes)
    head = await house.head(room_id)
    assert head.join_rule == join_rule
    assert head.text("m.room.guest_access", "guest_access") == guest_access
    assert head.history_visibility.content_value == "shared"
    assert await house.rooms.directory.is_published(room_id) is published


ENCRYPTED = {"algorithm": "m.megolm.v1.aes-sha2"}


@pytest.mark.parametrize(
    ("by_default", "wishes", "encryption"),
    [
        ("private", {}, ENCRYPTED),
        ("private", {"preset": "trusted_private_chat"}, ENCRYPTED),
        ("private", {"visibility": "public", "preset": "private_chat"}, ENCRYPTED),
        ("private", {"preset": "public_chat"}, None),
        ("private", {"visibility": "public"}, None),
        (
            "private",
            {"initial_state": (InitialState("m.room.encryption", "", {"algorithm": "x"}),)},
            {"algorithm": "x"},
        ),
        ("private", {"initial_state": (InitialState("m.room.encryption", "", {}),)}, None),
        ("private", {"initial_state": (InitialState("m.room.encryption", "k", {}),)}, ENCRYPTED),
        ("private", {"creation_content": {"type": "m.space"}}, None),
        ("private", {"creation_content": {"type": "org.example.call"}}, ENCRYPTED),
        ("private", {"takes_encryption": False}, None),
        ("all", {"preset": "public_chat"}, ENCRYPTED),
        ("all", {"creation_content": {"type": "m.space"}}, None),
        ("off", {}, None),
        (
            "off",
            {"initial_state": (InitialState("m.room.encryption", "", {"algorithm": "x"}),)},
            {"algorithm": "x"},
        ),
    ],
)
async def test_encryption_by_default(
    database: Database,
    by_default: Literal["private", "all", "off"],
    wishes: dict[str, Any],
    encryption: dict[str, Any] | None,
) -> None:
    """As configured, unless the creator says otherwise; an empty event says that there shall be none."""
    house = await House.open(database, encrypted_by_default=by_default)
    head = await house.head(await house.create(**wishes))
    assert (head.content("m.room.encryption") or None) == encryption
    assert (("m.room.encryption", "") in head.state) is (encryption is not None)


@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_a_trusted_chat_gives_everybody_the_creators_power(database: Database, version: str) -> None:
    """By power level, or from version 12 as additional creators, joined with those asked for."""
    house = await House.open(database)
    content = {"additional_creators": [CAROL]} if version == "12" else {}
    room_id = await house.create(
        version=version,
        preset="trusted_private_chat",
        invite=(BOB,),
        is_direct=True,
        creation_content=content,
    )
    head = await house.head(room_id)
    if version == "12":
        assert head.content("m.room.create")["additional_creators"] == [CAROL, BOB]
        assert head.content("m.room.power_levels")["users"] == {}
        assert head.power_levels.user_level(BOB) == CREATOR_LEVEL
    else:
        assert head.content("m.room.power_levels")["users"] == {ALICE: 100, BOB: 100}
    assert (await house.member_content(room_id, BOB))["is_direct"] is True


@pytest.mark.parametrize(
    ("override", "level"),
    [
        ({}, 150),
        ({"events": {}}, 150),
        ({"state_default": 200, "events": {}}, 201),
        ({"events": {"m.room.tombstone": 60}}, 60),
    ],
)
async def test_the_tombstone_of_version_12_has_a_level_of_its_own(
    database: Database, override: dict[str, Any], level: int
) -> None:
    """It is above state_default unless the creator says otherwise."""
    house = await House.open(database)
    head = await house.head(await house.create(power_levels=override))
    assert head.content("m.room.power_levels")["events"]["m.room.tombstone"] == level


async def test_the_creation_content_is_kept_but_for_what_is_the_servers(database: Database) -> None:
    """Unknown keys stay; `creator` and `room_version` are overwritten."""
    house = await House.open(database)
    room_id = await house.create(
        creation_content={"m.federate": False, "type": "m.space", "x": 1, "creator": BOB, "room_version": "1"}
    )
    content = (await house.head(room_id)).content("m.room.create")
    assert content == {"m.federate": False, "type": "m.space", "x": 1, "room_version": "12"}


async def test_the_invited_are_shown_what_the_room_is(database: Database) -> None:
    """Stripped state holds the create event, name and the rest, and the inviter's member event."""
    house = await House.open(database)
    house.world.profiles[ALICE] = {"displayname": "Alice"}
    house.world.profiles[BOB] = {"displayname": "Bob", "avatar_url": "mxc://localhost/b"}
    room_id = await house.create(name="Tea", topic="leaves", alias_localpart="tea", invite=(BOB,))
    standing = next(iter((await house.engine.user_rooms.of(BOB)).values()))
    assert (standing.room_id, standing.membership, standing.sender) == (room_id, "invite", ALICE)
    shown = {(e["type"], e["state_key"]): e for e in orjson.loads(standing.stripped_state or "")}
    assert set(shown) == {
        ("m.room.create", ""),
        ("m.room.join_rules", ""),
        ("m.room.canonical_alias", ""),
        ("m.room.name", ""),
        ("m.room.topic", ""),
        ("m.room.member", ALICE),
    }
    assert all(set(event) == {"type", "state_key", "sender", "content"} for event in shown.values())
    assert shown["m.room.member", ALICE]["content"] == {"membership": "join", "displayname": "Alice"}
    assert await house.member_content(room_id, BOB) == {
        "membership": "invite",
        "displayname": "Bob",
        "avatar_url": "mxc://localhost/b",
    }


REFUSED: list[tuple[dict[str, Any], type[MatrixError]]] = [
    ({"version": "nope"}, UnsupportedRoomVersion),
    ({"invite": ("bob",)}, InvalidParam),
    ({"invite": (ALICE,)}, InvalidParam),
    ({"invite": tuple(f"@u{n}:localhost" for n in range(101))}, InvalidParam),
    ({"invite": ("@bob:elsewhere.org",)}, Unknown),
    ({"invite": ("@blocking:localhost",)}, InviteBlocked),
    ({"alias_localpart": "a b"}, InvalidParam),
    ({"alias_localpart": "a:b"}, InvalidParam),
    ({"alias_localpart": ""}, InvalidParam),
    ({"alias_localpart": "x" * 250}, InvalidParam),
    ({"alias_localpart": "taken"}, RoomInUse),
    ({"creation_content": {"additional_creators": ["bob"]}}, InvalidParam),
    ({"creation_content": {"additional_creators": BOB}}, InvalidParam),
    ({"power_levels": {"users": {ALICE: 100}}}, InvalidRoomState),
    ({"power_levels": {"ban": "50"}}, InvalidRoomState),
    ({"version": "11", "power_levels": {"users": {ALICE: 0}}}, InvalidRoomState),
    ({"initial_state": (InitialState("m.room.member", BOB, {"membership": "join"}),)}, InvalidRoomState),
    ({"initial_state": (InitialState("m.room.create", "", {}),)}, InvalidRoomState),
    ({"initial_state": (InitialState("x", "@bob:localhost", {}),)}, InvalidRoomState),
    (
        {"initial_state": (InitialState("m.room.canonical_alias", "", {"alias": "#taken:localhost"}),)},
        BadAlias,
    ),
]


@pytest.mark.parametrize(("wishes", "error"), REFUSED)
async def test_what_is_refused_leaves_nothing(
    database: Database, wishes: dict[str, Any], error: type[MatrixError]
) -> None:
    """Neither a room nor an alias nor an invite remains of a creation that was refused."""
    house = await House.open(database)
    house.world.blocked.add("@blocking:localhost")
    await house.create(bob, alias_localpart="taken")
    with pytest.raises(error):
        await house.create(**{"alias_localpart": "fresh", **wishes})
    assert await house.engine.user_rooms.of(ALICE) == {}
    with pytest.raises(MatrixError, match="not found"):
        await house.rooms.aliases.resolve("#fresh:localhost")


async def _create(house: House) -> object:
    return await house.create(alias_localpart="tea")


async def test_one_alias_names_one_room(database: Database) -> None:
    """Of simultaneous creations with one alias, on two processes, one succeeds and the others leave nothing."""
    houses = [await House.open(database), await House.open(database)]
    made: list[Deferred[object]] = [
        Deferred.fromCoroutine(_create(house)) for _ in range(5) for house in houses
    ]
    outcomes: list[tuple[bool, object]] = list(await DeferredList(made, consumeErrors=True))
    won = [result for success, result in outcomes if success]
    lost = [result.value for _, result in outcomes if isinstance(result, Failure)]
    assert len(won) == 1
    assert all(isinstance(error, RoomInUse) for error in lost)
    assert await houses[0].rooms.aliases.resolve("#tea:localhost") == won[0]
    fresh = await House.open(database)
    assert len(await fresh.engine.user_rooms.of(ALICE)) == 1


async def test_who_may_create_and_publish(database: Database) -> None:
    """Suspended users create nothing; the configuration says who publishes."""
    house = await House.open(database, publication="admins")
    with pytest.raises(UserSuspended):
        await house.create(User(ALICE, is_suspended=True))
    with pytest.raises(Forbidden):
        await house.create(alice, visibility="public")
    assert await house.create(User(ALICE, is_admin=True), visibility="public")
