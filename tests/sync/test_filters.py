# SPDX-License-Identifier: Apache-2.0
"""Filters at work: what is left out, what is still told because it is the room's state, and other forms of events."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.protocol.filters import SyncFilter
from homeserver.rooms.engine import Draft
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, CAROL
from tests.sync.sync_fixture import Process, filtered, topic, types


@pytest.mark.parametrize(
    ("wanted", "bodies"),
    [
        ({"types": ["m.room.message"]}, ["a", "b", "c", "d"]),
        ({"types": ["m.room.*"], "not_types": ["m.room.message"]}, []),
        ({"types": ["m.room.message"], "senders": [BOB]}, ["b", "d"]),
        ({"types": ["m.room.message"], "not_senders": [BOB]}, ["a", "c"]),
        ({"types": ["m.room.message"], "contains_url": True}, []),
        ({"types": ["m.room.message"], "contains_url": False, "limit": 2}, ["c", "d"]),
        ({"types": ["m.room.message"], "not_rooms": ["ROOM"]}, []),
        ({"types": ["m.room.message"], "rooms": ["ROOM"]}, ["a", "b", "c", "d"]),
        ({"types": ["m.room.message"], "rooms": []}, []),
    ],
)
async def test_timelines_are_filtered_first_and_following(
    database: Database, wanted: dict[str, Any], bodies: list[str]
) -> None:
    """The same events pass whether they are asked for at once or one after the other."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    named = {k: [room.room_id for _ in v] if k in ("rooms", "not_rooms") else v for k, v in wanted.items()}
    following = process.client(filter=filtered(timeline=named))
    await following.sync()
    for sender, body in ((ALICE, "a"), (BOB, "b"), (ALICE, "c"), (BOB, "d")):
        await process.send(room.room_id, sender, body)
    await following.sync()
    assert (following.bodies(room.room_id) if following.has(room.room_id) else []) == bodies
    first = process.client(filter=following.filter)
    await first.sync()
    assert first.bodies(room.room_id) == bodies


async def test_a_timeline_looks_behind_what_is_filtered_out(database: Database) -> None:
    """Wanted events are found under many unwanted ones; the page ends where the search did."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.send(room.room_id, ALICE, "wanted")
    for n in range(60):
        await process.write(room.room_id, Draft("org.example.noise", ALICE, {"n": n}))
    alice = process.client(filter=filtered(timeline={"types": ["m.room.message"], "limit": 5}))
    await alice.sync()
    assert alice.bodies(room.room_id) == ["wanted"]
    for n in range(200):
        await process.write(room.room_id, Draft("org.example.noise", ALICE, {"n": n}))
    alice.since = None
    await alice.sync()
    assert alice.bodies(room.room_id) == [] and alice.room(room.room_id)["timeline"]["limited"]


async def test_state_that_the_timeline_leaves_out_is_in_the_state(database: Database) -> None:
    """A client that wants messages only must still learn the topic."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    alice = process.client(filter=filtered(timeline={"types": ["m.room.message"]}))
    await alice.sync()
    assert ("m.room.create", "") in alice.state(room.room_id)
    await process.write(room.room_id, topic("t"))
    await process.send(room.room_id, ALICE, "hello")
    await alice.sync()
    assert alice.bodies(room.room_id) == ["hello"]
    assert set(alice.state(room.room_id)) == {("m.room.topic", "")}


async def test_state_is_filtered(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room(more=[topic("t")])
    await process.send(room.room_id, ALICE, *map(str, range(10)))
    for wanted, expected in (
        ({"types": ["m.room.topic"]}, {("m.room.topic", "")}),
        ({"not_types": ["*"]}, set()),
        ({"senders": [BOB]}, set()),
        ({"not_rooms": [room.room_id]}, set()),
        ({"types": ["m.room.member"], "limit": 0}, {("m.room.member", ALICE)}),
    ):
        alice = process.client(filter=filtered(state=wanted))
        await alice.sync()
        assert set(alice.state(room.room_id)) == expected


async def test_whole_rooms_are_filtered(database: Database) -> None:
    process = await Process.open(database)
    one, two = await process.engine.new_room(), await process.engine.new_room()
    for wanted, expected in (
        ({"rooms": [one.room_id]}, {one.room_id}),
        ({"not_rooms": [one.room_id]}, {two.room_id}),
        ({"rooms": [one.room_id], "not_rooms": [one.room_id]}, set()),
    ):
        alice = process.client(filter=filtered(**wanted))
        await alice.sync()
        assert set(alice.last["rooms"]["join"]) == expected
        await process.send(one.room_id, ALICE, "x")
        await process.send(two.room_id, ALICE, "x")
        await alice.sync()
        assert set(alice.last["rooms"]["join"]) == expected


async def test_events_come_in_the_form_that_is_wanted(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.send(room.room_id, ALICE, "hello")
    fields = process.client(filter=SyncFilter.parse({"event_fields": ["type", "content.body"]}))
    await fields.sync()
    assert fields.timeline(room.room_id)[-1] == {"type": "m.room.message", "content": {"body": "hello"}}
    federation = process.client(filter=SyncFilter.parse({"event_format": "federation"}))
    await federation.sync()
    event = federation.timeline(room.room_id)[-1]
    assert event["hashes"] and event["auth_events"] and event["event_id"].startswith("$")


async def test_what_is_beside_events_is_filtered(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    fakes = process.fakes
    fakes.account_data.kept[ALICE, 0, "m.a"] = (process.engine.stream.position, {"g": 1})
    fakes.account_data.kept[ALICE, 0, "m.b"] = (process.engine.stream.position, {"g": 1})
    fakes.account_data.kept[ALICE, room.key, "m.tag"] = (process.engine.stream.position, {"r": 1})
    fakes.receipts.told.append((process.engine.stream.position, room.key, {"$e": {}}))
    fakes.typing.set(room.key, BOB)
    fakes.presence.set(BOB, "online")
    fakes.presence.set(CAROL, "online")
    for wanted, account, presence, ephemeral, tags in (
        ({}, ["m.a", "m.b"], [BOB, CAROL], ["m.receipt", "m.typing"], ["m.tag"]),
        ({"account_data": {"types": ["m.a"]}}, ["m.a"], [BOB, CAROL], ["m.receipt", "m.typing"], ["m.tag"]),
        ({"account_data": {"limit": 1}}, ["m.a"], [BOB, CAROL], ["m.receipt", "m.typing"], ["m.tag"]),
        ({"presence": {"not_types": ["*"]}}, ["m.a", "m.b"], [], ["m.receipt", "m.typing"], ["m.tag"]),
        ({"presence": {"not_senders": [BOB]}}, ["m.a", "m.b"], [CAROL], ["m.receipt", "m.typing"], ["m.tag"]),
        (
            {"room": {"ephemeral": {"types": ["m.typing"]}}},
            ["m.a", "m.b"],
            [BOB, CAROL],
            ["m.typing"],
            ["m.tag"],
        ),
        ({"room": {"ephemeral": {"not_types": ["*"]}}}, ["m.a", "m.b"], [BOB, CAROL], [], ["m.tag"]),
        (
            {"room": {"account_data": {"not_rooms": [room.room_id]}}},
            ["m.a", "m.b"],
            [BOB, CAROL],
            ["m.receipt", "m.typing"],
            [],
        ),
    ):
        alice = process.client(filter=SyncFilter.parse(wanted))
        await alice.sync()
        assert types(alice.last["account_data"]["events"]) == account
        assert [event["sender"] for event in alice.last["presence"]["events"]] == presence
        assert types(alice.room(room.room_id)["ephemeral"]["events"]) == ephemeral
        assert types(alice.room(room.room_id)["account_data"]["events"]) == tags
