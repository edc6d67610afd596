# SPDX-License-Identifier: Apache-2.0
"""Stretches of timelines in memory: what is read from them is what would be read from the database."""

from __future__ import annotations

import random
from typing import Any

import pytest

from homeserver.rooms.engine import Draft, Room, SendTransaction
from homeserver.rooms.reading.places import end_of
from homeserver.rooms.reading.stretches import Mark, Stretches
from storage.database import Database
from storage.events import TimelinePlace
from storage.parents import ParentStore
from tests.devices.devices_fixture import statements
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, Engine, heard, member, message
from tests.rooms.reading.reading_fixture import Reading, ids, visibility
from tests.rooms.reading.test_relations import related

USERS = (ALICE, BOB, CAROL)


async def _act(reading: Reading, room_id: str, chance: random.Random, told: list[str]) -> None:
    """Something happens in the room."""
    sender = chance.choice((ALICE, BOB))
    kind = chance.randrange(12)
    if kind < 5 or not told:
        transaction = SendTransaction(sender, "DEVICE", "send", f"t{len(told)}")
        draft = Draft(
            "m.room.message", sender, {"body": str(len(told)), "msgtype": "m.text"}, transaction=transaction
        )
    elif kind < 8:
        rel_type = chance.choice(("m.replace", "m.thread", "m.reference"))
        draft = related(sender, rel_type, chance.choice(told))
    elif kind == 8:
        target = (await reading.engine.events.by_ids([chance.choice(told)])).popitem()[1]
        draft = Draft("m.room.redaction", ALICE, {}, redacts=target)
    elif kind == 9:
        draft = Draft("m.room.name", ALICE, {"name": str(len(told))}, "")
    elif kind == 10:
        draft = visibility(ALICE, chance.choice(("shared", "joined", "invited", "world_readable")))
    else:
        room = await reading.engine.cache.get(room_id)
        assert room is not None
        draft = member(CAROL, "leave" if room.head.is_joined(CAROL) else "join")
    told += await reading.write(room_id, draft)


@pytest.mark.parametrize("seed", range(3))
async def test_pages_are_the_same_with_and_without_them(database: Database, seed: int) -> None:
    """In the process that writes, in another, and where nothing is kept: over random histories, places and limits."""
    chance = random.Random(seed)
    writing = await Reading.open(database)
    other = await Reading.open(database, engine=await Engine.open(database))
    room = await writing.engine.new_room()
    told = await writing.write(room.room_id, member(BOB, "join"), member(CAROL, "join"))
    tokens: list[str | None] = [None]
    for _ in range(40):
        await _act(writing, room.room_id, chance, told)
        await heard(other.engine, writing.engine)
        cold = await Reading.open(database, engine=await Engine.open(database), budget=0)
        for _ in range(2):
            user, start = chance.choice(USERS), chance.choice((None, *tokens[-8:]))
            asked: dict[str, Any] = {"start": start, "limit": chance.choice((1, 3, 8, 25))}
            expected = await cold.page(user, room.room_id, **asked)
            for reading in (writing, other, writing):
                assert await reading.page(user, room.room_id, **asked) == expected
            tokens += [expected.get("end"), f"s{writing.engine.stream.position - chance.randrange(5)}_0"]


async def test_what_was_read_is_read_again_without_a_query(database: Database) -> None:
    """By other members too, from the end and from further back, also when more was said since."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    await reading.write(room.room_id, member(BOB, "join"))
    for number in range(30):
        await reading.write(room.room_id, message(ALICE, str(number)))
    first = await reading.page(ALICE, room.room_id, limit=20)
    await reading.page(BOB, room.room_id, limit=1)
    await reading.write(room.room_id, message(ALICE, "more"), message(BOB, "and more"))
    sent = statements(database)
    assert len((await reading.page(BOB, room.room_id, limit=10))["chunk"]) == 10
    middle = await reading.page(ALICE, room.room_id, limit=5)
    assert middle["chunk"][2]["content"]["body"] == "29"
    again = await reading.page(ALICE, room.room_id, start=middle["end"], limit=17)
    assert ids(again["chunk"]) == ids(first["chunk"])[3:]
    assert statements(database) == sent


async def test_who_reads_on_backwards_leaves_the_newest_at_hand(database: Database) -> None:
    """Also when more was said since the newest were read."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    await reading.write(room.room_id, member(BOB, "join"))
    for number in range(30):
        await reading.write(room.room_id, message(ALICE, str(number)))
    first = await reading.page(ALICE, room.room_id, limit=10)
    await reading.write(room.room_id, message(ALICE, "more"))
    newest = await reading.page(BOB, room.room_id, limit=5)
    await reading.page(ALICE, room.room_id, start=first["end"], limit=10)
    sent = statements(database)
    assert await reading.page(BOB, room.room_id, limit=5) == newest
    assert statements(database) == sent


async def test_only_events_with_children_are_asked_about(database: Database) -> None:
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    told = [*await reading.write(room.room_id, message(ALICE, "a"), message(ALICE, "b"))]
    await reading.page(ALICE, room.room_id, limit=2)
    await reading.write(room.room_id, related(ALICE, "m.reference", told[0]))
    before = statements(database)
    page = await reading.page(ALICE, room.room_id, limit=3)
    assert "m.reference" in page["chunk"][2]["unsigned"]["m.relations"]
    after = statements(database)
    assert {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name)} == {
        "relations_bundles": 1
    }


async def test_they_are_bounded(database: Database) -> None:
    """What was read longest ago is forgotten first."""
    reading = await Reading.open(database)
    rooms = [await reading.engine.new_room() for _ in range(3)]
    stretches = Stretches(parents=ParentStore(database), elsewhere=lambda _room: False, budget=25_000)
    for room in rooms:
        await _keep(reading, stretches, room)
    held = [stretches.before(room, end_of(room), 3) is not None for room in rooms]
    assert held == [False, True, True]


async def _keep(reading: Reading, stretches: Stretches, room: Room) -> None:
    rows = await reading.engine.events.page(room.key, TimelinePlace(2**62, 0), backwards=True, limit=5)
    entries = [reading.engine.gate.in_memory(room, stored) for stored in rows]
    await stretches.keep(room, Mark.of(room.head), end_of(room), entries, more=False)
