# SPDX-License-Identifier: Apache-2.0
"""Whose list changed, who came in and out of sight: exactly, over joins, leaves and changes, on a real Postgres."""

from __future__ import annotations

import secrets
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from homeserver.protocol.tokens import SyncToken
from homeserver.stream.changes import Change
from storage.database import Database
from storage.stream import StreamStore
from tests.devices.devices_fixture import Process
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, member

NOTHING: tuple[set[str], set[str]] = (set(), set())


class Noting:
    """Where the stream got to, step by step."""

    def __init__(self, positions: list[int]) -> None:
        self._positions = positions

    def changed(self, change: Change) -> tuple[str, ...]:
        self._positions.append(change.position)
        return ()


async def leave(process: Process, room_id: str, user: str) -> None:
    await process.engine.engine.write(room_id, lambda _head: [member(user, "leave")], users=(user,))


async def test_a_change_is_told_to_those_who_share_a_room_and_to_oneself(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    phone = await process.log_in(ALICE, "PHONE")
    since = process.position
    await process.upload(phone)
    assert await process.changed(ALICE, since) == ({ALICE}, set())
    assert await process.changed(BOB, since) == ({ALICE}, set())
    assert await process.changed(CAROL, since) == NOTHING
    later = process.position
    await process.upload(phone, 5)
    await process.engine.send(room.room_id, BOB, "hello")
    for user in (ALICE, BOB):
        assert await process.changed(user, later) == NOTHING


@pytest.mark.parametrize("held", [True, False])
async def test_who_leaves_while_a_change_is_on_its_way_is_not_told_to_have_changed(
    database: Database, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    """Or whoever has heard that they left would track them for ever: from memory, and where the room is not there."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    for user in (BOB, CAROL):
        await process.engine.join(room.room_id, user)
    phone = await process.log_in(BOB, "PHONE")
    since = process.position
    rooms_of = process.devices.lists._store.rooms_of

    async def slowly(users: list[str]) -> dict[str, set[int]]:
        rooms = await rooms_of(users)
        monkeypatch.undo()
        await leave(process, room.room_id, BOB)
        assert await process.changed(CAROL, since) == (set(), {BOB})
        return rooms

    monkeypatch.setattr(process.devices.lists._store, "rooms_of", slowly)
    told: list[int] = []
    process.engine.stream.subscribe(Noting(told))
    await process.upload(phone)
    left = told[0]
    assert process.position > left
    if not held:
        monkeypatch.setattr(process.engine.cache, "held_key", lambda _key: None)
    assert await process.changed(CAROL, left) == NOTHING
    assert await process.changed(BOB, left) == ({BOB}, set())


async def test_renaming_and_deleting_a_device_changes_the_list(database: Database) -> None:
    """However it comes about: the database says that it is due."""
    process = await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE", "Phone")
    await process.log_in(ALICE, "KEYLESS")
    await process.upload(phone)
    for statement, told in (
        ("UPDATE devices SET display_name = 'Telephone' WHERE device_id = 'PHONE'", True),
        ("UPDATE devices SET display_name = 'Telephone' WHERE device_id = 'KEYLESS'", False),
        ("UPDATE devices SET last_seen_ts = 5", False),
        ("DELETE FROM devices WHERE device_id = 'KEYLESS'", False),
        ("DELETE FROM devices WHERE device_id = 'PHONE'", True),
    ):
        since = process.position
        await database.execute("change", statement)
        if told:
            await process.moved_on(since)
            assert await process.changed(ALICE, since) == ({ALICE}, set())
        assert not await database.fetch("due", "SELECT * FROM device_list_dues")


async def test_what_a_process_left_due_is_settled_when_the_next_one_starts(database: Database) -> None:
    process = await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE")
    await process.upload(phone)
    await database.execute(
        "due", "INSERT INTO device_list_dues (user_id, device_id) VALUES (%s, '')", (ALICE,)
    )
    since = process.position
    await process.devices.lists.settle_all()
    assert await process.changed(ALICE, since) == ({ALICE}, set())
    assert not await database.fetch("due", "SELECT * FROM device_list_dues")


async def test_coming_into_sight_and_out_of_it(database: Database) -> None:
    process = await Process.open(database)
    one = await process.engine.new_room()
    since = process.position
    await process.engine.join(one.room_id, BOB)
    assert await process.changed(ALICE, since) == ({BOB}, set())
    assert await process.changed(BOB, since) == ({ALICE}, set())
    since = process.position
    two = await process.engine.new_room(BOB)
    await process.engine.join(two.room_id, ALICE)
    assert await process.changed(ALICE, since) == NOTHING, "they shared a room all the time"
    since = process.position
    await leave(process, one.room_id, BOB)
    assert await process.changed(ALICE, since) == NOTHING, "they share another"
    since = process.position
    await leave(process, two.room_id, ALICE)
    assert await process.changed(ALICE, since) == (set(), {BOB})
    assert await process.changed(BOB, since) == (set(), {ALICE})
    await process.engine.join(two.room_id, ALICE)
    for user, other in ((ALICE, BOB), (BOB, ALICE)):
        assert await process.changed(user, since) == ({other}, set()), "changes in between were not told"
    since = process.position
    await process.engine.join(one.room_id, CAROL)
    await leave(process, one.room_id, CAROL)
    assert await process.changed(ALICE, since) == NOTHING
    since = process.position
    assert await process.changed(ALICE, since) == NOTHING


async def test_other_processes_know_and_wake_those_concerned(database: Database) -> None:
    process, other = await Process.open(database), await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    await other.reached(process.position)
    phone = await process.log_in(ALICE, "PHONE")
    since = other.position
    woken = other.engine.stream.listen(BOB).wait()
    await process.upload(phone)
    await woken
    await other.reached(process.position)
    assert await other.changed(BOB, since) == ({ALICE}, set())
    assert await (await Process.open(database)).changed(BOB, since) == ({ALICE}, set())


async def test_where_people_only_talk_there_is_no_query(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    carol = await process.log_in(CAROL, "C")
    await process.changed(ALICE, process.position - 1)
    since = process.position
    await process.engine.send(room.room_id, BOB, "hello")
    await process.upload(carol)
    await process.engine.send(room.room_id, BOB, "hello")
    await database.close()
    assert await process.changed(ALICE, since) == NOTHING


async def test_talk_written_elsewhere_takes_no_look_at_members(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that ask at once share one look at what was written, which shows whether somebody came or went."""
    process, other = await Process.open(database), await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    await other.reached(process.position)
    await other.engine.cache.get(room.room_id)
    await process.engine.send(room.room_id, BOB, "hello")
    await other.reached(process.position)
    await other.engine.cache.get(room.room_id)
    for user in (ALICE, BOB):
        await other.changed(user, other.position - 1)
    since = other.position
    await process.engine.send(room.room_id, BOB, "hello")
    await process.engine.send(room.room_id, BOB, "hello")
    await other.reached(process.position)
    statements: list[str] = []
    fetch = database.fetch

    async def counted(name: str, *arguments: Any, **options: Any) -> Any:
        statements.append(name)
        return await fetch(name, *arguments, **options)

    monkeypatch.setattr(database, "fetch", counted)
    asked = [Deferred.fromCoroutine(other.changed(user, since)) for user in (ALICE, BOB)]
    assert [await each for each in asked] == [NOTHING, NOTHING]
    assert statements == ["rooms_since"]
    await process.engine.join(room.room_id, CAROL)
    await other.reached(process.position)
    assert await other.changed(ALICE, since) == ({CAROL}, set())


async def test_counts_are_in_every_response_and_read_when_they_moved(database: Database) -> None:
    """A device without keys has none; one that has, is told of none left, too."""
    process = await Process.open(database)
    phone = await process.log_in(ALICE, "PHONE")
    await process.log_in(ALICE, "KEYLESS")
    section = process.sections[2]
    assert not (await section.changed(ALICE, "KEYLESS", None, process.position)).fields
    await process.upload(phone)
    news = await section.changed(ALICE, "PHONE", None, process.position)
    assert orjson.loads(news.fields["device_one_time_keys_count"]) == {"signed_curve25519": 0}
    await process.upload(phone, 2)
    since = SyncToken(process.position)
    other = await Process.open(database)
    woken = process.engine.stream.listen(ALICE).wait()
    await other.devices.claim.claim({ALICE: {"PHONE": "signed_curve25519"}}, 1)
    await woken
    await process.reached(other.position)
    news = await section.changed(ALICE, "PHONE", since, process.position)
    assert orjson.loads(news.fields["device_one_time_keys_count"]) == {"signed_curve25519": 1}
    assert orjson.loads(news.fields["device_unused_fallback_key_types"]) == [] and news.has_news
    await database.close()
    again = await section.changed(ALICE, "PHONE", SyncToken(process.position), process.position)
    assert again.fields == news.fields and not again.has_news


PEOPLE = range(3)
STEP = st.one_of(
    st.tuples(st.just("join"), st.sampled_from(PEOPLE), st.integers(0, 1)),
    st.tuples(st.just("leave"), st.sampled_from(PEOPLE), st.integers(0, 1)),
    st.tuples(st.just("change"), st.sampled_from(PEOPLE), st.just(0)),
    st.tuples(st.just("talk"), st.sampled_from(PEOPLE), st.integers(0, 1)),
    st.tuples(st.just("sync"), st.sampled_from(PEOPLE), st.just(0)),
)


class Oracle:
    """Says the same by looking at every moment: who shared rooms with whom, and whose list changed."""

    def __init__(self) -> None:
        self.moments: list[tuple[list[set[str]], str | None]] = []

    def note(self, rooms: list[set[str]], changed: str | None = None) -> None:
        self.moments.append(([set(room) for room in rooms], changed))

    def expected(self, user: str, since: int) -> tuple[set[str], set[str]]:
        moments = self.moments[since:]
        rooms_then, rooms_now = moments[0][0], moments[-1][0]
        before, after = _sharing(rooms_then, user), _sharing(rooms_now, user)
        throughout = {
            other
            for number in range(len(rooms_then))
            if all(user in rooms[number] for rooms, _ in moments)
            for other in rooms_then[number]
            if all(other in rooms[number] for rooms, _ in moments)
        }
        moved = {changed for _, changed in moments[1:] if changed is not None}
        return (after - throughout) | (moved & (after | {user})), before - after


def _sharing(rooms: list[set[str]], user: str) -> set[str]:
    return {other for room in rooms if user in room for other in room} - {user}


@example(steps=[("join", 0, 0), ("change", 0, 0), ("join", 2, 0), ("change", 0, 0), ("leave", 0, 0)])
@example(steps=[("join", 0, 0), ("change", 0, 0), ("leave", 0, 0), ("join", 2, 0)])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEP, min_size=5, max_size=30))
async def test_what_is_told_is_exact_over_any_history(
    database: Database, steps: list[tuple[str, int, int]]
) -> None:
    """Everything that changed, everybody who came or went, and nothing else; from memory, and from the database."""
    process = await Process.open(database)
    people = [f"@{secrets.token_hex(4)}:localhost" for _ in PEOPLE]  # the examples share a database
    rooms = [await process.engine.new_room("@owner:localhost") for _ in range(2)]
    members: list[set[str]] = [set(), set()]
    oracle = Oracle()
    oracle.note(members)
    tokens = dict.fromkeys(people, (process.position, 0))
    for number, (action, who, which) in enumerate([*steps, *(("sync", who, 0) for who in PEOPLE)]):
        user = people[who]
        if action == "join" and user not in members[which]:
            await process.engine.join(rooms[which].room_id, user)
            members[which].add(user)
            oracle.note(members)
        elif action == "leave" and user in members[which]:
            await leave(process, rooms[which].room_id, user)
            members[which].discard(user)
            oracle.note(members)
        elif action == "change":
            device = f"D{process.position}_{number}"
            await process.upload(await process.log_in(user, device))
            oracle.note(members, user)
        elif action == "talk" and user in members[which]:
            await process.engine.send(rooms[which].room_id, user, "hello")
        elif action == "sync":
            # The examples before have processes, too, and may have been the first to settle what was due: what is told
            # from beyond the position shown is told again.
            await process.reached(await StreamStore(database, "test").position())
            since, moment = tokens[user]
            changed, left = await process.changed(user, since)
            owner = {"@owner:localhost"}
            expected = oracle.expected(user, moment)
            assert (changed - owner, left - owner) == expected, (user, steps)
            if number >= len(steps):
                fresh = await Process.open(database)
                assert await fresh.changed(user, since) == (changed, left)
            tokens[user] = (process.position, len(oracle.moments) - 1)
