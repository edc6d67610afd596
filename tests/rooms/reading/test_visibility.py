# SPDX-License-Identifier: Apache-2.0
"""Who may read what: every kind of reader in rooms of every history visibility, through every endpoint.

Client-server API, "Room History Visibility". In each room Alice says "before", then Bob becomes what the case says by
way of its steps, and Alice says "after"; where Bob was in the room for a while she says "meanwhile" then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from homeserver.errors import Forbidden, NotFound
from homeserver.rooms.reading.members import MembersQuery
from homeserver.rooms.reading.messages import NO_WISH
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, member, message
from tests.rooms.reading.reading_fixture import Client, Reading, ids, visibility

READERS = {
    "joined": [member(BOB, "join"), message(ALICE, "meanwhile")],
    "left": [member(BOB, "join"), message(ALICE, "meanwhile"), member(BOB, "leave")],
    "banned": [member(BOB, "join"), message(ALICE, "meanwhile"), member(BOB, "ban", ALICE)],
    "invited": [member(BOB, "invite", ALICE)],
    "invited then joined": [
        member(BOB, "invite", ALICE),
        message(ALICE, "invited"),
        member(BOB, "join"),
        message(ALICE, "meanwhile"),
    ],
    "never": [],
}

# Reader and visibility to the bodies they see; None: refused. `world_readable` shows everything to everybody.
EXPECTED: dict[tuple[str, str], list[str] | None] = {
    ("joined", "shared"): ["before", "meanwhile", "after"],
    ("joined", "invited"): ["meanwhile", "after"],
    ("joined", "joined"): ["meanwhile", "after"],
    ("left", "shared"): ["before", "meanwhile"],
    ("left", "invited"): ["meanwhile"],
    ("left", "joined"): ["meanwhile"],
    ("banned", "shared"): ["before", "meanwhile"],
    ("banned", "invited"): ["meanwhile"],
    ("banned", "joined"): ["meanwhile"],
    ("invited", "shared"): None,
    ("invited", "invited"): None,
    ("invited", "joined"): None,
    ("invited then joined", "shared"): ["before", "invited", "meanwhile", "after"],
    ("invited then joined", "invited"): ["invited", "meanwhile", "after"],
    ("invited then joined", "joined"): ["meanwhile", "after"],
    ("never", "shared"): None,
    ("never", "invited"): None,
    ("never", "joined"): None,
    ("joined", "world_readable"): ["before", "meanwhile", "after"],
    ("left", "world_readable"): ["before", "meanwhile", "after"],
    ("banned", "world_readable"): ["before", "meanwhile", "after"],
    ("invited", "world_readable"): ["before", "after"],
    ("invited then joined", "world_readable"): ["before", "invited", "meanwhile", "after"],
    ("never", "world_readable"): ["before", "after"],
}


async def prepare(reading: Reading, reader: str, setting: str) -> tuple[str, dict[str, str]]:
    """The room and Alice's messages by body."""
    room = await reading.engine.new_room(visibility=setting)
    drafts = [message(ALICE, "before"), *READERS[reader], message(ALICE, "after")]
    written = await reading.write(room.room_id, *drafts)
    said = {
        str(draft.content["body"]): event_id
        for draft, event_id in zip(drafts, written, strict=True)
        if draft.type == "m.room.message"
    }
    return room.room_id, said


@pytest.mark.parametrize(("reader", "setting"), EXPECTED)
async def test_each_reader_sees_what_is_theirs(database: Database, reader: str, setting: str) -> None:
    """By pages in both directions, event by event, by context and by time."""
    reading = await Reading.open(database)
    services, bob = reading.services, Client(BOB)
    room_id, said = await prepare(reading, reader, setting)
    expected = EXPECTED[reader, setting]
    if expected is None:
        with pytest.raises(Forbidden):
            await reading.page(BOB, room_id)
        with pytest.raises(Forbidden):
            await services.by_time.nearest(BOB, room_id, 0, backwards=False)
    else:
        for backwards in (True, False):
            pages = await reading.walk(BOB, room_id, limit=3, backwards=backwards)
            shown = [body for body, event_id in said.items() if event_id in pages]
            assert shown == expected
    for body, event_id in said.items():
        if expected is not None and body in expected:
            assert orjson.loads(await services.event.get(bob, room_id, event_id))["event_id"] == event_id
            context = orjson.loads(await services.context.around(bob, room_id, event_id, 50, NO_WISH))
            around = {*ids(context["events_before"]), event_id, *ids(context["events_after"])}
            assert around & set(said.values()) == {said[each] for each in expected}
        else:
            with pytest.raises(NotFound):
                await services.event.get(bob, room_id, event_id)
            with pytest.raises(Forbidden if expected is None else NotFound):
                await services.context.around(bob, room_id, event_id, 50, NO_WISH)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("setting", ["shared", "world_readable"])
async def test_state_is_the_present_one_or_that_of_the_leave(
    database: Database, reader: str, setting: str
) -> None:
    """Members see the present; who left, the room as they left it; others only what is open to the world.

    CVE-2021-39164: the member list of a private room was shown to non-members.
    """
    reading = await Reading.open(database)
    services, bob = reading.services, Client(BOB)
    room_id, _ = await prepare(reading, reader, setting)
    await reading.engine.join(room_id, CAROL)
    asked: list[Callable[[], Awaitable[Any]]] = [
        lambda: services.state.all(bob, room_id),
        lambda: services.state.one(BOB, room_id, "m.room.create", ""),
        lambda: services.members.get(bob, room_id, MembersQuery()),
        lambda: services.members.get(bob, room_id, MembersQuery(membership="join")),
        lambda: services.members.get(bob, room_id, MembersQuery(at=f"s{reading.engine.stream.position}")),
        lambda: services.initial_sync.of_room(bob, room_id, None),
    ]
    if setting == "shared" and reader in ("never", "invited"):
        for ask in asked:
            with pytest.raises(Forbidden):
                await ask()
        with pytest.raises(Forbidden):
            await services.members.joined(BOB, room_id)
        return
    for ask in asked:
        await ask()
    state = orjson.loads(await services.state.all(bob, room_id))
    present = setting == "world_readable" or "joined" in reader
    assert (CAROL in {event.get("state_key") for event in state}) is present
    for query in (MembersQuery(), MembersQuery(at=f"s{reading.engine.stream.position}")):
        chunk = orjson.loads(await services.members.get(bob, room_id, query))["chunk"]
        assert {event["state_key"] for event in chunk} == {
            event["state_key"] for event in state if event["type"] == "m.room.member"
        }
    if "joined" not in reader:
        with pytest.raises(Forbidden):
            await services.members.joined(BOB, room_id)


async def test_the_past_of_the_member_list_is_history(database: Database) -> None:
    """`at` shows a point only to those who could see it then, or whose sync began there."""
    reading = await Reading.open(database)
    bob = Client(BOB)
    room = await reading.engine.new_room(visibility="joined")
    await reading.write(room.room_id, member(CAROL, "join"))
    early = f"s{reading.engine.stream.position}"
    await reading.write(room.room_id, member(CAROL, "leave"), message(ALICE, "x"))
    join = (await reading.write(room.room_id, member(BOB, "join")))[0]
    await reading.write(room.room_id, visibility(ALICE, "shared"))
    with pytest.raises(Forbidden):
        await reading.services.members.get(bob, room.room_id, MembersQuery(at=early))
    stored = (await reading.engine.events.by_ids([join]))[join]
    at_join = MembersQuery(at=f"t{stored.depth}_{stored.position}", membership="join")
    chunk = orjson.loads(await reading.services.members.get(bob, room.room_id, at_join))["chunk"]
    assert {event["state_key"] for event in chunk} == {ALICE}


async def test_a_forgotten_room_is_a_stranger(database: Database) -> None:
    """Having forgotten a room one has never been there."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    await reading.write(room.room_id, member(BOB, "join"), message(ALICE, "x"), member(BOB, "leave"))
    assert await reading.walk(BOB, room.room_id)
    await reading.engine.committer.write("forgotten", [{"room": room.key, "user_id": BOB}], users=[BOB])
    with pytest.raises(Forbidden):
        await reading.page(BOB, room.room_id)


async def test_an_unknown_room_is_refused_like_a_private_one(database: Database) -> None:
    """In the same words but for its id, so that nobody can probe for rooms."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    refusals = []
    for room_id in (room.room_id, "!unknown:localhost"):
        with pytest.raises(Forbidden) as refused:
            await reading.services.state.all(Client(BOB), room_id)
        refusals.append(refused.value.message.replace(room_id, "…"))
    assert refusals[0] == refusals[1]
