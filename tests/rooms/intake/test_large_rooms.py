# SPDX-License-Identifier: Apache-2.0
"""What a fork costs is what its branches did, not how many are in the room: counted in what the database is asked."""

from __future__ import annotations

from collections import Counter

import orjson

from homeserver.protocol.events import Event
from homeserver.rooms.engine import Room
from homeserver.rooms.intake.incoming import Incoming
from storage.database import Database
from storage.packing import pdu_of
from tests.rooms.intake.dag import MEMBER, Dag, ids
from tests.rooms.intake.intake_fixture import ALICE, DAVE, ERIN, Process, ends, member


async def _room_of(database: Database, members: int) -> tuple[Process, Room, Dag]:
    """A process that has the room in memory, and of its members no more than who they are."""
    first = await Process.open(database)
    room, dag = await first.room_with(DAVE, ERIN, power=60)
    drafts = [member(f"@u{number}:four.example", "invite", ALICE) for number in range(members)]
    await first.engine.engine.write(room.room_id, lambda _head: drafts, users=(ALICE,))
    rows = await database.fetch(
        "test",
        f"SELECT event_id, {pdu_of('e')} FROM events e WHERE room = %s",
        (room.key,),
    )
    for event_id, pdu in rows:
        dag.events[event_id] = Event.from_pdu(orjson.loads(pdu), dag.version, event_id)
    # One by one would keep as many states as there are members.
    (end,) = ends(room)
    dag.after[end] = await first.current(room)
    process = await Process.open(database)
    loaded = await process.engine.cache.get(room.room_id)
    assert loaded is not None
    return process, loaded, dag


def _fork(dag: Dag, base: list[str]) -> list[Incoming]:
    """Two branches with a few changes each, some to the same things, and an event that joins them."""

    def branch(user: str, shown: str, kicked: str) -> list[Incoming]:
        made = [dag.topic(user, shown, prev=base)]
        for event_type, content, state_key in (
            ("m.room.name", {"name": shown}, ""),
            (MEMBER, {"membership": "leave"}, kicked),
            (MEMBER, {"membership": "ban"}, "@u3:four.example"),
            (MEMBER, {"membership": "join", "displayname": shown}, user),
        ):
            made.append(dag.write(user, event_type, content, state_key, prev=ids(made[-1])))
        return made

    left = branch(DAVE, "one side", "@u1:four.example")
    right = branch(ERIN, "the other", "@u2:four.example")
    return [*left, *right, dag.say(DAVE, "together again", prev=ids(left[-1], right[-1]))]


async def _cost(database: Database, members: int) -> Counter[str]:
    """Rows that the database gave out for the fork, by query."""
    process, room, dag = await _room_of(database, members)
    events = _fork(dag, ends(room))
    rows: Counter[str] = Counter()
    fetch = database.fetch

    async def counted(name: str, *args: object, **kwargs: object) -> object:
        answer = await fetch(name, *args, **kwargs)  # type: ignore[arg-type]
        rows[name] += len(answer)
        return answer

    database.fetch = counted  # type: ignore[method-assign,assignment]
    try:
        await process.accept(room, *events)
    finally:
        del database.fetch
    assert await process.current(room) == dag.resolved(ends(room))
    return rows


async def test_a_fork_costs_the_same_in_a_room_of_two_thousand(database: Database) -> None:
    """Only what the branches differ in is loaded, whole or in part; of the state that they have in common no more than
    its ordinals, from steps that are at most twice as many as its events."""
    small, large = await _cost(database, 20), await _cost(database, 2000)
    assert 0 < large.pop("state_chains") <= 2 * 2010
    assert small.pop("state_chains") > 0
    assert large == small
    assert sum(large.values()) < 20, large
