# SPDX-License-Identifier: Apache-2.0
"""Gaps: the state that makes up for events that are not shown, exactly."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.rooms.engine import Draft
from homeserver.sync.request import StateAfter
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, member
from tests.sync.sync_fixture import Client, Json, Process, filtered, topic


async def test_a_gap_is_made_up_for_by_the_state_that_changed_in_it(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room(more=[topic("old"), Draft("m.room.name", ALICE, {"name": "n"}, "")])
    alice = process.client()
    await alice.sync()
    await process.write(room.room_id, topic("new"))
    await process.engine.join(room.room_id, BOB)
    await process.send(room.room_id, ALICE, *map(str, range(15)))
    await alice.sync()
    assert alice.room(room.room_id)["timeline"]["limited"]
    assert alice.bodies(room.room_id) == [str(n) for n in range(5, 15)]
    state = alice.state(room.room_id)
    assert set(state) == {("m.room.topic", ""), ("m.room.member", BOB)}
    assert alice.room(room.room_id)["summary"]["m.joined_member_count"] == 2


async def test_state_changed_in_the_gap_and_after_it_is_given_as_it_was_between(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room(more=[topic("old")])
    alice = process.client(filter=filtered(timeline={"limit": 2}))
    await alice.sync()
    await process.write(room.room_id, topic("between"))
    await process.send(room.room_id, ALICE, "gap", "shown")
    await process.write(room.room_id, topic("new"))
    await alice.sync()
    assert alice.state(room.room_id)["m.room.topic", ""]["content"] == {"topic": "between"}
    assert alice.timeline(room.room_id)[-1]["content"] == {"topic": "new"}


async def test_a_redaction_in_the_gap_renews_the_state_it_struck(database: Database) -> None:
    """The client has the unredacted event and would never learn."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    (event_id,) = await process.write(room.room_id, topic("secret"))
    alice = process.client(filter=filtered(timeline={"limit": 1}))
    await alice.sync()
    await process.redact(room.room_id, ALICE, event_id)
    await process.send(room.room_id, ALICE, "gap", "shown")
    await alice.sync()
    assert alice.state(room.room_id)["m.room.topic", ""]["content"] == {}
    await process.send(room.room_id, ALICE, "gap", "shown")
    await alice.sync()
    assert alice.state(room.room_id) == {}


async def test_no_timeline_at_all_still_tells_the_state(database: Database) -> None:
    """A limit of 0: everything is gap."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    alice = process.client(filter=filtered(timeline={"limit": 0}))
    await alice.sync()
    assert ("m.room.create", "") in alice.state(room.room_id)
    await process.write(room.room_id, topic("t"))
    await alice.sync()
    assert set(alice.state(room.room_id)) == {("m.room.topic", "")} and alice.timeline(room.room_id) == []
    assert alice.room(room.room_id)["timeline"]["limited"]


async def test_many_rooms_with_gaps_cost_as_many_queries_as_one(database: Database) -> None:
    process = await Process.open(database)
    rooms = [await process.engine.new_room() for _ in range(5)]
    alice = process.client(filter=filtered(timeline={"limit": 1}))
    await alice.sync()
    for room in rooms:
        await process.write(room.room_id, topic("t"))
        await process.send(room.room_id, ALICE, "gap", "shown")
    asked: list[str] = []
    fetch = database.fetch

    async def counting(name: str, *args: object, **kwargs: object) -> object:
        asked.append(name)
        return await fetch(name, *args, **kwargs)  # type: ignore[arg-type]

    database.fetch = counting  # type: ignore[method-assign,assignment]
    await alice.sync()
    assert len(asked) <= 5
    assert all(set(alice.state(room.room_id)) == {("m.room.topic", "")} for room in rooms)


ACTIONS = st.lists(
    st.sampled_from(
        ["topic", "name", "say", "say", "say", "join", "leave", "kick", "rename", "redact", "sync"]
    ),
    max_size=25,
)


class Copy:
    """What a client makes of its responses: the state of one room."""

    def __init__(self) -> None:
        self.state: dict[tuple[str, str], Json] = {}

    def take(self, client: Client, room_id: str) -> None:
        if not client.has(room_id):
            return
        self.state.update(client.state(room_id))
        for event in client.timeline(room_id):
            if "state_key" in event and client.state_after is None:
                self.state[event["type"], event["state_key"]] = event
            if event["type"] == "m.room.redaction":
                for struck in self.state.values():
                    if struck["event_id"] == event["content"]["redacts"]:
                        struck["content"] = {"membership": struck["content"].get("membership")}

    def compared(self) -> dict[tuple[str, str], str]:
        return {key: event["event_id"] for key, event in self.state.items()}


async def act(process: Process, room_id: str, action: str, number: int, marked: list[str]) -> None:
    room = process.engine.cache.peek(room_id)
    assert room is not None
    joined = room.head.is_joined(BOB)
    if action == "topic":
        marked.append((await process.write(room_id, topic(str(number))))[0])
    elif action == "name":
        await process.write(room_id, Draft("m.room.name", ALICE, {"name": str(number)}, ""))
    elif action == "say":
        await process.send(room_id, ALICE, str(number))
    elif action == "join" and not joined:
        await process.engine.join(room_id, BOB)
    elif action == "leave" and joined:
        await process.set_membership(room_id, BOB, "leave")
    elif action == "kick" and joined:
        await process.set_membership(room_id, BOB, "leave", ALICE)
    elif action == "rename" and joined:
        await process.write(room_id, member(BOB, "join", displayname=str(number)))
    elif action == "redact" and marked:
        await process.redact(room_id, ALICE, marked.pop())


_opened: list[tuple[Database, Process]] = []


async def process_on(database: Database) -> Process:
    """One process for all examples."""
    if not _opened or _opened[0][0] is not database:
        _opened[:] = [(database, await Process.open(database))]
    return _opened[0][1]


@pytest.mark.parametrize("state_after", [None, "state_after"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS, limit=st.integers(0, 3))
async def test_increments_add_up_to_the_room(
    database: Database, state_after: StateAfter | None, actions: list[str], limit: int
) -> None:
    """Whatever happened, and however much of it fell into gaps, a client's copy is the room's state."""
    process = await process_on(database)
    room = await process.engine.new_room()
    client = process.client(filter=filtered(timeline={"limit": limit}), state_after=state_after)
    copy, marked = Copy(), list[str]()
    for number, action in enumerate([*actions, "sync"]):
        if action == "sync":
            await client.sync()
            copy.take(client, room.room_id)
        else:
            await act(process, room.room_id, action, number, marked)
    fresh = process.client(filter=client.filter, state_after="state_after")
    await fresh.sync()
    expected = fresh.state(room.room_id)
    assert copy.compared() == {key: event["event_id"] for key, event in expected.items()}
    for event_type, name in (("m.room.topic", "topic"), ("m.room.name", "name")):
        if (event_type, "") in expected:
            shown = copy.state[event_type, ""]["content"].get(name)
            assert shown == expected[event_type, ""]["content"].get(name)
