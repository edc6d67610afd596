# SPDX-License-Identifier: Apache-2.0
"""`/state`, `/members`, `/joined_members`: what they hold, and that a large room does not hold up the reactor."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred

from homeserver.errors import NotFound
from homeserver.rooms.engine import Draft, RoomHead
from homeserver.rooms.reading.members import MembersQuery
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, member, message
from tests.rooms.reading.reading_fixture import Client, Reading, ids, pause


def _same(drafts: list[Draft], _head: RoomHead) -> list[Draft]:
    return drafts


def by_key(events: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    return {(event["type"], event["state_key"]): event["content"] for event in events}


async def test_the_whole_state(database: Database) -> None:
    """Every key once, at its newest, members included, each event in client format."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    topics = [Draft("m.room.topic", ALICE, {"topic": topic}, "") for topic in ("one", "two")]
    await reading.write(room.room_id, *topics, member(BOB, "join"), message(ALICE, "no state"))
    events = orjson.loads(await reading.services.state.all(Client(ALICE), room.room_id))
    state = by_key(events)
    assert len(events) == len(state) == 7
    assert state["m.room.topic", ""] == {"topic": "two"}
    assert state["m.room.member", BOB] == {"membership": "join"}
    assert all(event["room_id"] == room.room_id and "age" in event["unsigned"] for event in events)
    fresh = await Reading.open(database)
    assert by_key(orjson.loads(await fresh.services.state.all(Client(ALICE), room.room_id))) == state


async def test_one_state_event(database: Database) -> None:
    """Members from where they are kept, others from the head; what was, for one who left; M_NOT_FOUND else."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    topics = [Draft("m.room.topic", ALICE, {"topic": topic}, "") for topic in ("one", "two")]
    await reading.write(
        room.room_id, member(BOB, "join", displayname="Bob"), topics[0], member(BOB, "leave"), topics[1]
    )
    state = reading.services.state
    for user, topic in ((ALICE, "two"), (BOB, "one")):
        entry = await state.one(user, room.room_id, "m.room.topic", "")
        assert entry.event.content == {"topic": topic}
        entry = await state.one(user, room.room_id, "m.room.member", BOB)
        assert entry.event.content["membership"] == "leave"
        for key in (("m.room.topic", "x"), ("m.room.member", CAROL), ("m.room.name", "")):
            with pytest.raises(NotFound):
                await state.one(user, room.room_id, *key)
    entry = await state.one(ALICE, room.room_id, "m.room.topic", "")
    rendered = orjson.loads(await state.rendered(Client(ALICE), entry))
    assert (rendered["event_id"], rendered["state_key"]) == (entry.stored.event_id, "")


QUERIES: list[tuple[dict[str, str], set[str]]] = [
    ({}, {ALICE, BOB, CAROL}),
    ({"membership": "join"}, {ALICE}),
    ({"not_membership": "leave"}, {ALICE, CAROL}),
    ({"membership": "leave", "not_membership": "join"}, {BOB, CAROL}),
    ({"membership": "knock"}, set()),
]


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize(("query", "users"), QUERIES)
async def test_members_by_membership(
    database: Database, query: dict[str, str], users: set[str], cold: bool
) -> None:
    """With both conditions, one of them suffices."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    await reading.write(
        room.room_id, member(BOB, "join"), member(BOB, "leave"), member(CAROL, "invite", ALICE)
    )
    if cold:
        reading = await Reading.open(database)
    answer = await reading.services.members.get(Client(ALICE), room.room_id, MembersQuery(**query))
    assert {event["state_key"] for event in orjson.loads(answer)["chunk"]} == users


async def test_members_at_a_token(database: Database) -> None:
    """Both kinds of token name the members as they were there; the newest token those of now."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    tokens = []
    for draft in (member(BOB, "join"), message(ALICE, "x"), member(CAROL, "join"), member(BOB, "leave")):
        event_id = (await reading.write(room.room_id, draft))[0]
        stored = (await reading.engine.events.by_ids([event_id]))[event_id]
        tokens.append((f"s{stored.position}_17", f"t{stored.depth}_{stored.position + 1}"))
    expected = [{ALICE, BOB}, {ALICE, BOB}, {ALICE, BOB, CAROL}, {ALICE, CAROL}]
    for pair, users in zip(tokens, expected, strict=True):
        for token in pair:
            query = MembersQuery(at=token, membership="join")
            answer = await reading.services.members.get(Client(ALICE), room.room_id, query)
            assert {event["state_key"] for event in orjson.loads(answer)["chunk"]} == users


async def test_joined_members(database: Database) -> None:
    """Those who are joined, with the names they chose there; what is no string is left out."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    await reading.write(
        room.room_id,
        member(BOB, "join", displayname="Bob", avatar_url="mxc://localhost/b"),
        member(CAROL, "join", displayname=7),
        member(CAROL, "leave"),
        member(CAROL, "join", displayname=["x"]),
    )
    assert await reading.services.members.joined(BOB, room.room_id) == {
        ALICE: {},
        BOB: {"display_name": "Bob", "avatar_url": "mxc://localhost/b"},
        CAROL: {},
    }


async def test_a_large_room_lets_others_work(database: Database) -> None:
    """While the state of many thousand members is rendered, something else of the process gets its turns."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    people = [f"@user{n}:localhost" for n in range(2000)]
    for start in range(0, len(people), 500):
        joins = [member(user, "join") for user in people[start : start + 500]]
        await reading.engine.engine.write(room.room_id, partial(_same, joins))
    turns = 0
    done = False

    async def other() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await pause()

    beside = Deferred.fromCoroutine(other())
    events = orjson.loads(await reading.services.state.all(Client(ALICE), room.room_id))
    done = True
    await beside
    assert len(events) == len(set(ids(events))) == 2005
    assert turns >= 20
