# SPDX-License-Identifier: Apache-2.0
"""What a room becomes does not depend on the order in which its events arrive, and is what the plain reference says."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.rooms.engine import Room
from homeserver.rooms.intake.incoming import Incoming, Outcome
from storage.database import Database
from tests import reactor as runner
from tests.rooms.intake.dag import MEMBER, Dag
from tests.rooms.intake.intake_fixture import ALICE, DAVE, ERIN, FRED, Process, ends

EXAMPLES = int(os.environ.get("LARES_TEST_EXAMPLES", "12"))
USERS = (DAVE, ERIN, FRED)
TABLES = (
    "rooms",
    "events",
    "state_snapshots",
    "current_state",
    "memberships",
    "room_summaries",
    "event_relations",
    "event_gaps",
    "waiting_redactions",
)

Step = tuple[int, int, int, tuple[int, ...]]

STEPS = st.lists(
    st.tuples(
        st.integers(0, len(USERS) - 1),
        st.integers(0, 11),
        st.integers(0, len(USERS) - 1),
        st.lists(st.integers(0, 6), min_size=1, max_size=3).map(tuple),
    ),
    min_size=2,
    max_size=14,
)


def grow(dag: Dag, base: Sequence[str], steps: Sequence[Step]) -> list[Incoming]:
    """Write events on the graph, each on some of the newest before it."""
    nodes = list(base)
    grown: list[Incoming] = []
    for number, (who, what, whom, picks) in enumerate(steps):
        prev = list(dict.fromkeys(nodes[max(0, len(nodes) - 1 - pick)] for pick in picks))
        user, other = USERS[who], USERS[whom]
        match what:
            case 0 | 1:
                incoming = dag.topic(user, f"topic {number}", prev=prev)
            case 2:
                incoming = dag.write(user, "m.room.name", {"name": f"name {number}"}, "", prev=prev)
            case 3 | 4:
                incoming = dag.say(user, f"message {number}", prev=prev)
            case 5:
                membership = {"membership": "leave"}
                incoming = dag.write(user, MEMBER, membership, other, prev=prev)
            case 6:
                incoming = dag.write(user, MEMBER, {"membership": "ban"}, other, prev=prev)
            case 7:
                incoming = dag.write(
                    user, MEMBER, {"membership": "join", "displayname": f"{number}"}, user, prev=prev
                )
            case 8:
                rule = "invite" if number % 2 else "public"
                incoming = dag.write(user, "m.room.join_rules", {"join_rule": rule}, "", prev=prev)
            case 9:
                incoming = dag.write(user, MEMBER, {"membership": "invite"}, other, prev=prev)
            case 10:
                levels = _levels(dag, prev, other, 20 if number % 2 else 60)
                incoming = dag.write(user, "m.room.power_levels", levels, "", prev=prev)
            case _:
                incoming = dag.write(user, f"com.example.{whom}", {"number": number}, "", prev=prev)
        nodes.append(incoming.event.event_id)
        grown.append(incoming)
    return grown


def _levels(dag: Dag, prev: Sequence[str], other: str, level: int) -> dict[str, object]:
    held = dag.resolved(prev)
    content = dict(dag.events[held["m.room.power_levels", ""]].content)
    return {**content, "users": {**content["users"], other: level}}


def shuffled(events: Sequence[Incoming], random: Random) -> list[Incoming]:
    """The events in some order in which each comes after those it builds on."""
    waiting = {incoming.event.event_id: incoming for incoming in events}
    order: list[Incoming] = []
    while waiting:
        ready = [
            incoming
            for incoming in waiting.values()
            if not waiting.keys() & {*incoming.event.prev_event_ids, *incoming.event.auth_event_ids}
        ]
        chosen = random.choice(ready)
        del waiting[chosen.event.event_id]
        order.append(chosen)
    return order


def expected_ends(dag: Dag, base: Collection[str], standing: Collection[str]) -> set[str]:
    """What no standing event builds on, be it over events that do not stand."""
    built_on: set[str] = set()
    for event_id in standing:
        waiting = list(dag.events[event_id].prev_event_ids)
        while waiting:
            below = waiting.pop()
            if below in built_on:
                continue
            built_on.add(below)
            if below not in standing and below not in base:
                waiting.extend(dag.events[below].prev_event_ids)
    return {*standing, *base} - built_on


async def deliver(
    process: Process, room: Room, dag: Dag, base: Sequence[str], *, order: Sequence[Incoming], portion: int
) -> tuple[set[str], dict[tuple[str, str], str], bool]:
    """Hand the events in; what the room is then, and whether any was soft-failed."""
    outcomes: dict[str, Outcome] = {}
    for start in range(0, len(order), portion):
        for verdict in await process.intake.receive(room.room_id, order[start : start + portion]):
            outcomes[verdict.event_id] = verdict.outcome
    for incoming in order:
        event, outcome = incoming.event, outcomes[incoming.event.event_id]
        assert outcome in (Outcome.ACCEPTED, Outcome.SOFT_FAILED, Outcome.REJECTED)
        assert (outcome is Outcome.REJECTED) != dag.allowed(event, dag.before(event)), event
    standing = {event_id for event_id, outcome in outcomes.items() if outcome is Outcome.ACCEPTED}
    here = await process.engine.cache.get(room.room_id)
    assert here is not None
    assert set(ends(here)) == expected_ends(dag, base, standing)
    await process.check(here, dag)
    await process.check_states(here, dag)
    return set(ends(here)), await process.current(here), Outcome.SOFT_FAILED in outcomes.values()


async def keep(database: Database, room: Room) -> None:
    """Remember the room as it is."""
    for table in TABLES:
        await database.execute("test", f"DROP TABLE IF EXISTS kept_{table}")
        await database.execute(
            "test", f"CREATE TABLE kept_{table} AS SELECT * FROM {table} WHERE room = {room.key}"
        )


async def go_back(database: Database, room: Room) -> None:
    """Make the room what it was."""
    for table in TABLES:
        await database.execute("test", f"DELETE FROM {table} WHERE room = {room.key}")
        overriding = "OVERRIDING SYSTEM VALUE" if table == "rooms" else ""
        await database.execute("test", f"INSERT INTO {table} {overriding} SELECT * FROM kept_{table}")


@pytest.mark.parametrize("version", ["1", "2", "6", "11", "12"])
def test_orders(database: Database, version: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize="LARES_TEST_EXAMPLES" not in os.environ,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(steps=STEPS, random=st.randoms(use_true_random=False), portion=st.sampled_from([1, 3, 50]))
    def run(steps: list[Step], random: Random, portion: int) -> None:
        runner.run(_orders(database, version, steps, random, portion))

    run()


async def _orders(database: Database, version: str, steps: list[Step], random: Random, portion: int) -> None:
    process = await Process.open(database)
    room, dag = await process.room_with(*USERS, version=version)
    base = ends(room)
    await keep(database, room)
    events = grow(dag, base, steps)
    first = await deliver(process, room, dag, base, order=shuffled(events, random), portion=portion)
    await go_back(database, room)
    other = await Process.open(database)
    again = await other.engine.cache.get(room.room_id)
    assert again is not None
    second = await deliver(other, again, dag, base, order=shuffled(events, random), portion=50)
    if not first[2] and not second[2]:
        assert first == second
    assert ALICE in again.head.members
