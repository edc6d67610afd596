# SPDX-License-Identifier: Apache-2.0
"""Sending, setting state and redacting: who may, what is checked, what happens once."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.errors import (
    BadAlias,
    BadJson,
    DuplicateAnnotation,
    Forbidden,
    InvalidParam,
    MatrixError,
    NotFound,
    Unknown,
    UserSuspended,
)
from homeserver.protocol.errors import CanonicalJsonError, EventFormatError, EventTooLargeError, ProtocolError
from homeserver.rooms.engine import SendTransaction
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, CAROL
from tests.rooms.services_fixture import House, User, alice, bob, carol


def transaction(user: User, number: int = 1, scope: str = "send") -> SendTransaction:
    return SendTransaction(user.user_id, "DEVICE", scope, str(number))


async def say(house: House, user: User, room_id: str, body: str = "hello") -> str:
    return await house.rooms.sending.send(user, room_id, "m.room.message", {"body": body})


async def test_a_transaction_sends_once(database: Database) -> None:
    """On the same process, on another one, and not for another scope."""
    house, other = await House.open(database), await House.open(database)
    room_id = await house.public(bob)
    send = house.rooms.sending.send
    first = await send(bob, room_id, "m.x", {"n": 1}, transaction(bob))
    assert await send(bob, room_id, "m.x", {"n": 1}, transaction(bob)) == first
    assert await other.rooms.sending.send(bob, room_id, "m.x", {"n": 1}, transaction(bob)) == first
    assert await send(bob, room_id, "m.x", {"n": 1}, transaction(bob, scope="other")) != first


@pytest.mark.parametrize("event_type", ["m.room.message", "m.room.redaction"])
async def test_outsiders_send_nothing(database: Database, event_type: str) -> None:
    """The same words for a room one is not in and for one that is not."""
    house = await House.open(database)
    room_id = await house.public()
    for each in (room_id, "!unknown:localhost"):
        with pytest.raises(Forbidden, match="not in room"):
            await house.rooms.sending.send(bob, each, event_type, {"redacts": "$x"})
        with pytest.raises(Forbidden, match="not in room"):
            await house.set(bob, each, "m.room.topic", {"topic": "x"})


@pytest.mark.parametrize(
    ("event_type", "content", "error"),
    [
        ("m.x", {"n": 1.5}, CanonicalJsonError),
        ("m.x", {"n": 2**53}, CanonicalJsonError),
        ("m.x", {"body": "x" * 70_000}, EventTooLargeError),
        ("x" * 256, {}, EventTooLargeError),
        ("a\0b", {}, EventFormatError),
        ("m.room.redaction", {}, BadJson),
        ("m.room.redaction", {"redacts": 1}, BadJson),
        ("m.room.create", {}, ProtocolError),
        ("m.room.member", {"membership": "join"}, ProtocolError),
    ],
)
async def test_what_can_be_no_event_is_refused(
    database: Database, event_type: str, content: dict[str, Any], error: type[Exception]
) -> None:
    """And the room goes on."""
    house = await House.open(database)
    room_id = await house.public(bob)
    with pytest.raises(error):
        await house.rooms.sending.send(bob, room_id, event_type, content)
    assert await say(house, bob, room_id)


def reaction(parent: str, key: object) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": "m.annotation", "event_id": parent, "key": key}}


async def test_nobody_reacts_twice_alike(database: Database) -> None:
    """Another key, type or person is another annotation; a redacted one is none; a retry is told of the first."""
    house = await House.open(database)
    room_id = await house.public(bob)
    said = await say(house, alice, room_id)
    send = house.rooms.sending.send
    first = await send(bob, room_id, "m.reaction", reaction(said, "a"), transaction(bob, 1))
    with pytest.raises(DuplicateAnnotation):
        await send(bob, room_id, "m.reaction", reaction(said, "a"), transaction(bob, 2))
    assert await send(bob, room_id, "m.reaction", reaction(said, "a"), transaction(bob, 1)) == first
    other = await House.open(database)
    assert (
        await other.rooms.sending.send(bob, room_id, "m.reaction", reaction(said, "a"), transaction(bob, 1))
        == first
    )
    for _ in range(2):  # what has no key cannot be the same
        assert await send(bob, room_id, "m.reaction", reaction(said, 5))
    assert await send(bob, room_id, "m.reaction", reaction(said, "b"))
    assert await send(bob, room_id, "m.x", reaction(said, "a"))
    assert await send(alice, room_id, "m.reaction", reaction(said, "a"))
    await house.rooms.redacting.redact(bob, room_id, first, {})
    assert await send(bob, room_id, "m.reaction", reaction(said, "a")) != first


async def test_threads_begin_at_events_that_relate_to_none(database: Database) -> None:
    """A rich reply relates to none in this sense; of an event not known here nobody can tell."""
    house = await House.open(database)
    room_id, elsewhere = await house.public(bob), await house.public(bob)
    said = await say(house, alice, room_id)

    async def thread(root: str, room: str = room_id) -> str:
        content = {"body": "x", "m.relates_to": {"rel_type": "m.thread", "event_id": root}}
        return await house.rooms.sending.send(bob, room, "m.room.message", content)

    reply = {"body": "x", "m.relates_to": {"m.in_reply_to": {"event_id": said}}}
    replied = await house.rooms.sending.send(bob, room_id, "m.room.message", reply)
    child = await thread(said)
    for root in (said, replied, "$unknown"):
        assert await thread(root)
    with pytest.raises(Unknown):
        await thread(child)
    assert await thread(child, elsewhere)
    with pytest.raises(Forbidden, match="not in room"):
        await house.rooms.sending.send(
            carol, room_id, "m.x", {"m.relates_to": {"rel_type": "m.thread", "event_id": child}}
        )
    await house.rooms.redacting.redact(bob, room_id, child, {})
    assert await thread(child)


async def test_the_same_state_again_is_no_new_event(database: Database) -> None:
    """Only the same content by the same sender is."""
    house = await House.open(database)
    room_id = await house.create(power_levels={"users": {BOB: 50}}, preset="public_chat")
    await house.rooms.joining.join(bob, room_id)
    first = await house.set(alice, room_id, "m.room.topic", {"topic": "tea"})
    assert await house.set(alice, room_id, "m.room.topic", {"topic": "tea"}) == first
    assert await house.set(bob, room_id, "m.room.topic", {"topic": "tea"}) != first
    one = await house.set(alice, room_id, "m.x", {"x": 1})
    assert await house.set(alice, room_id, "m.x", {"x": True}) != one
    assert await house.set(alice, room_id, "m.room.topic", {"topic": "tea"}) != first


async def test_nul_in_a_name_does_no_harm(database: Database) -> None:
    """What Postgres cannot hold in a text is in the event, and left out of the summary."""
    house = await House.open(database)
    room_id = await house.create(visibility="public")
    await house.set(alice, room_id, "m.room.name", {"name": "te\0a"})
    with pytest.raises(EventFormatError):
        await house.set(alice, room_id, "m.x", {}, "a\0b")
    assert (await house.head(room_id)).text("m.room.name", "name") == "te\0a"
    assert (await house.rooms.summaries.summary(ALICE, room_id))["name"] == "tea"


LEVELS: list[tuple[str, dict[str, Any], type[Exception] | None]] = [
    ("12", {"ban": 60}, None),
    ("12", {"ban": "60"}, BadJson),
    ("12", {"ban": 60.0}, BadJson),
    ("12", {"users": {BOB: True}}, BadJson),
    ("12", {"users": {"bob": 1}}, BadJson),
    ("12", {"users": [BOB]}, BadJson),
    ("12", {"events": {"m.x": "1"}}, BadJson),
    ("12", {"users": {ALICE: 100}}, ProtocolError),
    ("9", {"ban": "60", "users": {ALICE: 100}}, None),
    ("9", {"ban": "sixty", "users": {ALICE: 100}}, BadJson),
]


@pytest.mark.parametrize(("version", "content", "error"), LEVELS)
async def test_power_levels_are_levels(
    database: Database, version: str, content: dict[str, Any], error: type[Exception] | None
) -> None:
    """In the terms of the room version."""
    house = await House.open(database)
    room_id = await house.create(version=version)
    if error is None:
        await house.set(alice, room_id, "m.room.power_levels", content)
        assert (await house.head(room_id)).power_levels.ban == 60
    else:
        with pytest.raises(error):
            await house.set(alice, room_id, "m.room.power_levels", content)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"alias": "#here:localhost"}, None),
        ({"alias": "#here:localhost", "alt_aliases": ["#here:localhost"]}, None),
        ({}, None),
        ({"alias": None}, None),
        ({"alias": ""}, None),
        ({"alias": "#elsewhere:localhost"}, BadAlias),
        ({"alias": "#unknown:localhost"}, BadAlias),
        ({"alt_aliases": ["#elsewhere:localhost"]}, BadAlias),
        ({"alias": "here"}, InvalidParam),
        ({"alias": 1}, InvalidParam),
        ({"alt_aliases": "#here:localhost"}, InvalidParam),
        ({"alt_aliases": [None]}, InvalidParam),
    ],
)
async def test_canonical_aliases_point_here(
    database: Database, content: dict[str, Any], error: type[MatrixError] | None
) -> None:
    """M_BAD_ALIAS and M_INVALID_PARAM of the specification."""
    house = await House.open(database)
    room_id, other = await house.create(), await house.create()
    await house.rooms.aliases.create(alice, "#here:localhost", room_id)
    await house.rooms.aliases.create(alice, "#elsewhere:localhost", other)
    if error is None:
        await house.set(alice, room_id, "m.room.canonical_alias", content)
    else:
        with pytest.raises(error):
            await house.set(alice, room_id, "m.room.canonical_alias", content)


async def test_an_alias_that_is_gone_does_not_block_others(database: Database) -> None:
    """What the room names already is not asked about again."""
    house = await House.open(database)
    room_id = await house.create(alias_localpart="first")
    await house.rooms.aliases.create(alice, "#second:localhost", room_id)
    await house.engine.committer.write(
        "room_alias_removal", [{"alias": "#first:localhost", "room_id": room_id}]
    )
    content = {"alias": "#first:localhost", "alt_aliases": ["#second:localhost"]}
    await house.set(alice, room_id, "m.room.canonical_alias", content)


ROLES = {
    "owner": User(BOB),
    "suspended owner": User(BOB, is_suspended=True),
    "moderator": alice,
    "suspended moderator": User(ALICE, is_suspended=True),
    "member": carol,
    "server admin": User(CAROL, is_admin=True),
}


@pytest.mark.parametrize("version", ["1", "10", "12"])
@pytest.mark.parametrize(
    ("role", "error"),
    [
        ("owner", None),
        ("suspended owner", None),
        ("moderator", None),
        ("suspended moderator", UserSuspended),
        ("member", Forbidden),
        ("server admin", None),
    ],
)
async def test_who_may_redact(
    database: Database, version: str, role: str, error: type[MatrixError] | None
) -> None:
    """One's own, with the power others', and server admins their users'."""
    house = await House.open(database)
    room_id = await house.public(bob, carol, version=version)
    event_id = await say(house, bob, room_id)
    doing = house.rooms.redacting.redact(ROLES[role], room_id, event_id, {"reason": "r"}, transaction(bob))
    if error is not None:
        with pytest.raises(error):
            await doing
        return
    redaction = await doing
    stored = (await house.engine.events.by_ids((event_id,)))[event_id]
    assert stored.redacted_by == redaction
    assert "hello" not in stored.pdu


async def test_what_cannot_be_redacted(database: Database) -> None:
    """Other rooms' events, unknown ones, and what a room stands on."""
    house = await House.open(database)
    room_id, other = await house.public(bob), await house.public(bob)
    foreign = await say(house, alice, other)
    acl = await house.set(alice, room_id, "m.room.server_acl", {"allow": ["*"]})
    create = (await house.head(room_id)).state["m.room.create", ""].stored.event_id
    redact = house.rooms.redacting.redact
    for event_id, error in (
        (foreign, NotFound),
        ("$nothing", NotFound),
        (acl, Forbidden),
        (create, Forbidden),
    ):
        with pytest.raises(error):
            await redact(alice, room_id, event_id, {})


async def test_a_redaction_sent_as_an_event_redacts(database: Database) -> None:
    """`/send/m.room.redaction`, whose content names the target."""
    house = await House.open(database)
    room_id = await house.public(bob)
    event_id = await say(house, bob, room_id)
    await house.rooms.sending.send(bob, room_id, "m.room.redaction", {"redacts": event_id, "reason": "x"})
    assert (await house.engine.events.by_ids((event_id,)))[event_id].redacted_by is not None
    with pytest.raises(UserSuspended):
        await house.rooms.sending.send(User(BOB, is_suspended=True), room_id, "m.room.message", {})
