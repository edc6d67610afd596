# SPDX-License-Identifier: Apache-2.0
"""The room engine on a real Postgres: chains, idempotence, races, state and its history."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

import orjson
import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from homeserver.protocol.event_auth import AuthError
from homeserver.protocol.room_versions import ROOM_VERSIONS
from homeserver.rooms.engine import Draft, RoomHead, SendTransaction
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.snapshots import checkpoint_due, checkpoint_of, state_at
from homeserver.stream import Change
from storage.database import Database
from storage.events import EventStore, StoredEvent, TimelinePlace
from storage.state import SnapshotDelta, StateStore
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, Engine, member, message


async def whole_timeline(engine: Engine, room: int) -> list[StoredEvent]:
    return await engine.events.page(room, TimelinePlace(-1, 0), backwards=False, limit=100_000)


def prev_events(event: StoredEvent) -> list[str]:
    return [
        reference if isinstance(reference, str) else reference[0]
        for reference in orjson.loads(event.pdu)["prev_events"]
    ]


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_a_room_of_every_version_is_created_joined_and_spoken_in(
    database: Database, version: str
) -> None:
    """Each version's events are accepted, form one chain and are found again by a process that starts afresh."""
    engine = await Engine.open(database)
    room = await engine.new_room(version=version)
    await engine.join(room.room_id, BOB)
    event_id = await engine.send(room.room_id, BOB, "hello")
    await engine.engine.write(
        room.room_id, lambda _: [Draft("m.room.topic", ALICE, {"topic": "tea"}, "")], users=(ALICE,)
    )
    timeline = await whole_timeline(engine, room.key)
    assert [prev_events(event) for event in timeline[1:]] == [[event.event_id] for event in timeline[:-1]]
    assert [event.ordinal for event in timeline] == list(range(1, len(timeline) + 1))

    fresh = await Engine.open(database)
    again = await fresh.cache.get(room.room_id)
    assert again is not None
    assert again.head.is_joined(BOB)
    assert again.head.text("m.room.topic", "topic") == "tea"
    assert await fresh.send(room.room_id, BOB, "again") != event_id


async def test_simultaneous_sends_form_one_chain(database: Database) -> None:
    """Many writers of one process at once: nobody is refused, nothing doubled, one line of events."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    await engine.join(room.room_id, BOB, CAROL)
    sends = [
        Deferred.fromCoroutine(engine.send(room.room_id, sender, f"{sender} {n}"))
        for n in range(60)
        for sender in (ALICE, BOB, CAROL)
    ]
    ids = await gatherResults(sends)
    timeline = await whole_timeline(engine, room.key)
    assert [prev_events(event) for event in timeline[1:]] == [[event.event_id] for event in timeline[:-1]]
    assert set(ids) == {event.event_id for event in timeline if event.type == "m.room.message"}
    assert [event.position for event in timeline] == sorted({event.position for event in timeline})


async def test_two_processes_write_one_room(database: Database, database_url: str) -> None:
    """The compare-and-swap: two engines on one database race, and still there is one chain with every event once."""
    first, second = await Engine.open(database), await Engine.open(database)
    room = await first.new_room()
    await first.join(room.room_id, BOB)
    sends = [
        Deferred.fromCoroutine(engine.send(room.room_id, sender, f"{sender} {n}"))
        for n in range(40)
        for engine, sender in ((first, ALICE), (second, BOB))
    ]
    ids = await gatherResults(sends)
    timeline = await whole_timeline(first, room.key)
    assert [prev_events(event) for event in timeline[1:]] == [[event.event_id] for event in timeline[:-1]]
    assert len(ids) == len(set(ids)) == 80
    assert set(ids) == {event.event_id for event in timeline if event.type == "m.room.message"}


async def test_a_transaction_gives_one_event_for_ever(database: Database) -> None:
    """Simultaneous retries, later retries, and retries at another process all get the first event's id."""
    first, second = await Engine.open(database), await Engine.open(database)
    room = await first.new_room()
    await first.join(room.room_id, BOB)
    transaction = SendTransaction(ALICE, "PHONE", "send", "txn1")
    draft = Draft("m.room.message", ALICE, {"body": "once"}, transaction=transaction)

    async def attempt(engine: Engine) -> str:
        written = await engine.engine.write(
            room.room_id, lambda _: [draft], users=(ALICE,), transaction=transaction
        )
        return written.event_id

    attempts = [Deferred.fromCoroutine(attempt(engine)) for engine in (first, second, first, second, first)]
    ids = set(await gatherResults(attempts))
    ids.add(await attempt(await Engine.open(database)))
    assert len(ids) == 1
    other = SendTransaction(ALICE, "LAPTOP", "send", "txn1")
    assert other.key != transaction.key


async def test_a_transaction_that_writes_nothing_holds_up_no_retry(database: Database) -> None:
    """It breaks the contract of plans, and each try is told so."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    for _ in range(2):
        with pytest.raises(IndexError):
            await engine.engine.write(
                room.room_id, lambda _: [], transaction=SendTransaction(ALICE, "PHONE", "send", "1")
            )


async def test_a_transaction_that_stands_is_not_refused_later(database: Database) -> None:
    """The retry comes when its sender has left, to a process that knows nothing of it; another's is refused."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    await engine.join(room.room_id, BOB)

    async def attempt(engine: Engine, transaction: SendTransaction) -> str:
        draft = Draft("m.room.message", BOB, {"body": "once"}, transaction=transaction)
        written = await engine.engine.write(
            room.room_id, lambda _: [draft], users=(BOB,), transaction=transaction
        )
        return written.event_id

    first = await attempt(engine, SendTransaction(BOB, "PHONE", "send", "1"))
    await engine.engine.write(room.room_id, lambda _: [member(BOB, "leave")], users=(BOB,))
    later = await Engine.open(database)
    assert await attempt(later, SendTransaction(BOB, "PHONE", "send", "1")) == first
    with pytest.raises(AuthError):
        await attempt(later, SendTransaction(BOB, "PHONE", "send", "2"))


async def test_a_refused_plan_fails_alone(database: Database) -> None:
    """In one batch, the events that the rules reject leave the others, and the chain, untouched."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    good = [Deferred.fromCoroutine(engine.send(room.room_id, ALICE, str(n))) for n in range(3)]
    bad = Deferred.fromCoroutine(engine.send(room.room_id, BOB, "not a member"))
    more = Deferred.fromCoroutine(engine.send(room.room_id, ALICE, "last"))
    with pytest.raises(AuthError, match="not in room"):
        await bad
    await gatherResults([*good, more])
    timeline = await whole_timeline(engine, room.key)
    assert [prev_events(event) for event in timeline[1:]] == [[event.event_id] for event in timeline[:-1]]
    assert sum(event.type == "m.room.message" for event in timeline) == 4


async def test_memberships_are_kept_as_intervals(database: Database) -> None:
    """Join, leave and rejoin give three intervals that meet; a change of name gives none."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    for draft in (
        member(BOB, "join"),
        member(BOB, "join", displayname="Bob"),
        member(BOB, "leave"),
        member(BOB, "join"),
    ):
        await engine.engine.write(room.room_id, lambda _, draft=draft: [draft], users=(BOB,))  # type: ignore[misc]
    rows = await database.fetch(
        "test", "SELECT membership, since, until FROM memberships WHERE user_id = %s ORDER BY since", (BOB,)
    )
    assert [row[0] for row in rows] == ["join", "leave", "join"]
    assert [row[2] for row in rows[:-1]] == [row[1] for row in rows[1:]]
    assert rows[-1][2] is None


async def test_several_memberships_of_one_user_in_one_commit(database: Database) -> None:
    """Invite and join in a single plan: the first interval ends where the second begins."""
    engine = await Engine.open(database)
    room = await engine.new_room(join_rule="invite")
    await engine.engine.write(
        room.room_id, lambda _: [member(BOB, "invite", ALICE), member(BOB, "join")], users=(ALICE, BOB)
    )
    rows = await database.fetch(
        "test", "SELECT membership, since, until FROM memberships WHERE user_id = %s ORDER BY since", (BOB,)
    )
    assert [row[0] for row in rows] == ["invite", "join"]
    assert rows[0][2] == rows[1][1]


async def test_every_turn_of_one_user_in_one_commit(database: Database) -> None:
    """The intervals meet, each with the newest member event of its own, whatever came before in the same batch."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    await engine.join(room.room_id, BOB)
    first = room.head.next_ordinal
    await engine.engine.write(
        room.room_id,
        lambda _: [
            member(BOB, "join", displayname="Bob"),
            member(BOB, "leave", ALICE),
            member(BOB, "join"),
            member(BOB, "join", displayname="Bob again"),
            member(BOB, "ban", ALICE),
            member(BOB, "leave", ALICE),
            member(BOB, "invite", ALICE),
            member(BOB, "invite", ALICE, reason="once more"),
            member(BOB, "join"),
        ],
        users=(ALICE, BOB),
    )
    rows = await database.fetch(
        "test",
        "SELECT membership, ordinal, since, until FROM memberships WHERE user_id = %s ORDER BY since",
        (BOB,),
    )
    assert [(row[0], row[1] - first) for row in rows] == [
        ("join", 0),
        ("leave", 1),
        ("join", 3),
        ("ban", 4),
        ("leave", 5),
        ("invite", 6),
        ("invite", 7),
        ("join", 8),
    ]
    assert [row[3] for row in rows[:-1]] == [row[2] for row in rows[1:]]
    again = await (await Engine.open(database)).cache.get(room.room_id)
    assert again is not None
    assert again.head.members == room.head.members
    assert (again.head.joined_count, again.head.invited_count) == (
        room.head.joined_count,
        room.head.invited_count,
    )


async def test_a_redaction_strikes_what_is_stored_and_what_is_in_memory(database: Database) -> None:
    """After the redaction nobody reads the content any more, and the redaction is at hand for `unsigned`."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    event_id = await engine.send(room.room_id, ALICE, "secret")
    target = (await engine.events.by_ids([event_id]))[event_id]
    await engine.engine.write(
        room.room_id, lambda _: [Draft("m.room.redaction", ALICE, {}, redacts=target)], users=(ALICE,)
    )
    stored = (await engine.events.by_ids([event_id]))[event_id]
    assert "secret" not in stored.pdu
    assert stored.redaction_pdu is not None
    assert all("secret" not in entry.stored.pdu for entry in room.recent)


async def test_the_state_at_any_event_can_be_read_back(database: Database) -> None:
    """The state before each event, off its snapshot, equals the state replayed from the timeline."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    for n in range(30):
        topic = Draft("m.room.topic", ALICE, {"topic": str(n)}, "")
        await engine.engine.write(room.room_id, lambda _, topic=topic: [topic], users=(ALICE,))  # type: ignore[misc]
        await engine.send(room.room_id, ALICE, "and on")
    state: dict[tuple[str, str], str] = {}
    for event in await whole_timeline(engine, room.key):
        entry = engine.gate.in_memory(room, event)
        before = await engine.gate.state_before(room, event)
        assert {(e.stored.type, e.stored.state_key): e.stored.event_id for e in before} == state
        if entry.stored.state_key is not None:
            state[entry.stored.type, entry.stored.state_key] = entry.stored.event_id


async def test_ten_thousand_changes_write_few_rows(database: Database) -> None:
    """The bound on historical state: at most one snapshot row and two entries per change, checkpoints included."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    changes = 10_000
    for start in range(0, changes, 500):
        await engine.engine.write(
            room.room_id,
            lambda _, start=start: [  # type: ignore[misc]
                Draft("org.example.thing", ALICE, {"n": n}, str(n % 2000)) for n in range(start, start + 500)
            ],
            users=(ALICE,),
        )
    rows = await database.fetch("test", "SELECT added, removed, checkpoint FROM state_snapshots")
    assert len(rows) <= changes + 5
    deltas = sum(len(added) + len(removed) for added, removed, _ in rows)
    checkpoints = sum(
        len(BitMap.deserialize(checkpoint)) for _, _, checkpoint in rows if checkpoint is not None
    )
    assert deltas <= 2 * len(rows)
    assert checkpoints <= deltas
    longest = await StateStore(database).chain(room.key, room.head.snapshot)
    assert sum(len(step.added) + len(step.removed) for step in longest) <= 2 * len(room.head.state) + 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=120))
def test_snapshots_read_back_what_was_written(keys: list[int]) -> None:
    """Any sequence of state changes, written by the checkpoint rule, reads back as it was at every point."""
    chain: list[SnapshotDelta] = []
    state: dict[int, int] = {}
    weight = 0
    for ordinal, key in enumerate(keys, 1):
        removed = [state[key]] if key in state else []
        state[key] = ordinal
        weight += 1 + len(removed)
        checkpoint = None
        if checkpoint_due(weight, len(state)):
            checkpoint, weight = checkpoint_of(state.values()), 0
        chain.insert(0, SnapshotDelta([ordinal], removed, checkpoint))
        assert set(state_at(chain)) == set(state.values())


async def test_an_evicted_room_is_loaded_again(database: Database) -> None:
    """With a budget for hardly one room, many rooms are still written and read correctly."""
    engine = await Engine.open(database, budget=20_000)
    rooms = [await engine.new_room() for _ in range(12)]
    for n in range(3):
        for room in rooms:
            await engine.send(room.room_id, ALICE, str(n))
    for room in rooms:
        timeline = await whole_timeline(engine, room.key)
        assert [prev_events(event) for event in timeline[1:]] == [[event.event_id] for event in timeline[:-1]]


async def test_what_another_process_wrote_is_seen(database: Database) -> None:
    """A notification marks the room out of date, and its next reader gets the newest head."""
    first, second = await Engine.open(database), await Engine.open(database)
    room = await first.new_room()
    while second.stream.position < first.stream.position:  # else that wakes, too
        await deferLater(reactor, 0)
    seen = await second.cache.get(room.room_id)
    assert seen is not None
    listener = second.stream.listen(ALICE)
    woken = listener.wait()
    await first.engine.write(room.room_id, lambda _: [message(ALICE, "news")], users=(ALICE,))
    await woken
    listener.close()
    assert second.stream.position == first.stream.position
    again = await second.cache.get(room.room_id)
    assert again is not None
    assert again.head.position == room.head.position


async def test_a_broken_connection_loses_and_doubles_nothing(database: Database, postgres: str) -> None:
    """Backends are killed again and again while many send: every acknowledged event stands exactly once."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    ids: list[str] = []
    for n in range(6):
        sends = [Deferred.fromCoroutine(engine.send(room.room_id, ALICE, f"{n} {i}")) for i in range(20)]
        with closing(psycopg2.connect(postgres)) as other, other.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%commit_stream%'"
                " AND pid <> pg_backend_pid() OR query LIKE 'EXECUTE%'"
            )
        ids.extend(await gatherResults(sends))
    timeline = await whole_timeline(engine, room.key)
    assert [prev_events(event) for event in timeline[1:]] == [[event.event_id] for event in timeline[:-1]]
    sent = [event.event_id for event in timeline if event.type == "m.room.message"]
    assert sorted(ids) == sorted(sent)
    assert len(sent) == 120


@pytest.mark.parametrize("version", ["11", "12"])
async def test_rooms_created_at_one_moment_are_different_rooms(database: Database, version: str) -> None:
    """Also by one user with one content, when the clock stands still and the room id is the create event's hash."""
    engine = await Engine.open(database, clock=lambda: 1_700_000_000_000)
    rooms = await gatherResults([Deferred.fromCoroutine(engine.new_room(version=version)) for _ in range(5)])
    assert len({room.room_id for room in rooms}) == 5


async def test_rooms_of_two_processes_at_one_moment_are_different_rooms(database: Database) -> None:
    """The second to commit makes its create event anew."""
    engines = [await Engine.open(database, clock=lambda: 1_700_000_000_000) for _ in range(2)]
    rooms = await gatherResults([Deferred.fromCoroutine(engine.new_room(version="12")) for engine in engines])
    assert len({room.room_id for room in rooms}) == 2


async def test_a_redaction_by_another_process_is_seen(database: Database) -> None:
    """A member event held in memory here is not shown as it was before the redaction made elsewhere."""
    first, second = await Engine.open(database), await Engine.open(database)
    room = await first.new_room()
    await first.engine.write(
        room.room_id, lambda _: [member(BOB, "join", displayname="secret")], users=(BOB,)
    )
    held = await second.cache.get(room.room_id)
    assert held is not None
    ordinal = held.head.members[BOB].ordinal
    before = await second.gate.members(held, [BOB])
    assert "secret" in before[BOB].stored.pdu
    target = (await first.events.by_ordinals([(room.key, ordinal)]))[0]
    while second.stream.position < first.stream.position:  # else that wakes, too
        await deferLater(reactor, 0)
    listener = second.stream.listen(ALICE)
    woken = listener.wait()
    await first.engine.write(
        room.room_id, lambda _: [Draft("m.room.redaction", BOB, {}, redacts=target)], users=(BOB,)
    )
    await woken
    listener.close()
    again = await second.cache.get(room.room_id)
    assert again is not None
    after = await second.gate.members(again, [BOB])
    assert "secret" not in after[BOB].stored.pdu


async def test_rooms_evicted_while_they_are_written(database: Database) -> None:
    """A room that leaves memory during its own commit is written all the same, and its weight leaves with it."""
    engine = await Engine.open(database, budget=20_000)
    rooms = [await engine.new_room() for _ in range(12)]
    for n in range(3):
        sends = [Deferred.fromCoroutine(engine.send(room.room_id, ALICE, str(n))) for room in rooms]
        loads = [Deferred.fromCoroutine(engine.cache.get(room.room_id)) for room in reversed(rooms)]
        await gatherResults(sends)
        await gatherResults(loads)
    newest = [(await whole_timeline(engine, room.key))[-1].position for room in rooms]
    assert engine.stream.position == max(newest)
    held = [found for room in rooms if (found := engine.cache.held(room.room_id)) is not None]
    assert engine.cache.weight == sum(room.weight for room in held)


async def test_a_redacted_name_leaves_the_directory_and_the_head(database: Database) -> None:
    """The summary shows the room as it is after the redaction, and so does the head that later events build on."""
    engine = await Engine.open(database)
    room = await engine.new_room(more=[Draft("m.room.name", ALICE, {"name": "secret"}, "")])
    target = room.head.state["m.room.name", ""].stored
    seen: list[str | None] = []

    def plan(_head: RoomHead) -> list[Draft]:
        return [Draft("m.room.redaction", ALICE, {}, redacts=target)]

    def look(head: RoomHead) -> list[Draft]:
        seen.append(head.text("m.room.name", "name"))
        return [message(ALICE, "and on")]

    writes = [
        Deferred.fromCoroutine(engine.engine.write(room.room_id, each, users=(ALICE,)))
        for each in (lambda _: [message(ALICE, "first")], plan, look)
    ]
    await gatherResults(writes)
    assert seen == [None]
    assert room.head.text("m.room.name", "name") is None
    rows = await database.fetch("test", "SELECT name FROM room_summaries WHERE room = %s", (room.key,))
    assert rows == [(None,)]
    again = await (await Engine.open(database)).cache.get(room.room_id)
    assert again is not None
    assert again.head.state["m.room.name", ""].stored == room.head.state["m.room.name", ""].stored


async def test_two_redactions_of_one_event_in_one_commit(database: Database) -> None:
    """The first strikes it, in memory and in the database alike; the second changes nothing."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    event_id = await engine.send(room.room_id, ALICE, "secret")
    target = (await engine.events.by_ids([event_id]))[event_id]
    written = await engine.engine.write(
        room.room_id,
        lambda _: [Draft("m.room.redaction", ALICE, {"n": n}, redacts=target) for n in range(2)],
        users=(ALICE,),
    )
    first = written.events[0].stored.event_id
    stored = (await engine.events.by_ids([event_id]))[event_id]
    held = [entry for entry in room.recent if entry.stored.event_id == event_id]
    assert [entry.stored.redacted_by for entry in held] == [first]
    assert stored.redacted_by == first
    struck = await database.fetch("test", "SELECT count(*) FROM events WHERE redacted_by IS NOT NULL")
    assert struck == [(1,)]


async def test_what_is_redacted_while_it_is_read_is_not_kept(database: Database) -> None:
    """A member event whose old form is on its way from the database when the redaction lands is read again."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    await engine.engine.write(
        room.room_id, lambda _: [member(BOB, "join", displayname="secret")], users=(BOB,)
    )
    ordinal = room.head.members[BOB].ordinal

    class Slow(EventStore):
        async def by_ordinals(self, wanted: Iterable[tuple[int, int]]) -> list[StoredEvent]:
            found = await super().by_ordinals(wanted)
            memory.redacted(room.key, ordinal)
            return found

    memory = MemberEvents(Slow(database), 1_000_000)
    await memory.load(room.key, room.room_id, room.head.version, [ordinal])
    assert memory.peek(room.key, ordinal) is None


async def test_redactions_leave_no_weight_behind(database: Database) -> None:
    """What an event weighed when it came is what leaves with it."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    await engine.engine.write(
        room.room_id, lambda _: [member(BOB, "join", displayname="b" * 200)], users=(BOB,)
    )
    ordinal = room.head.members[BOB].ordinal
    target = (await engine.events.by_ordinals([(room.key, ordinal)]))[0]
    await engine.engine.write(
        room.room_id, lambda _: [Draft("m.room.redaction", BOB, {}, redacts=target)], users=(BOB,)
    )
    engine.member_events.changed(Change(before=0, count=0, unknown=True))
    assert engine.member_events.weight == 0


async def test_a_plan_finds_the_member_events_loaded_for_it(database: Database) -> None:
    """Even if no cache could keep them: there is no room, or another process wrote while they were read."""
    first = await Engine.open(database)
    room = await first.new_room()
    await first.join(room.room_id, BOB)
    engine = await Engine.open(database, budget=4)

    def plan(head: RoomHead) -> list[Draft]:
        found = [engine.engine.member_event(head, user) for user in (ALICE, BOB)]
        assert all(entry is not None for entry in found)
        return [message(ALICE, "found them")]

    written = await engine.engine.write(room.room_id, plan)
    assert len(written.events) == 1


async def test_a_state_that_names_an_event_that_is_not_stored_is_refused(database: Database) -> None:
    """A damaged database fails the request; it is not asked for the event for ever."""
    engine = await Engine.open(database)
    room = await engine.new_room()
    ordinal = room.head.members[ALICE].ordinal
    await database.execute("test", "DELETE FROM events WHERE ordinal = %s", (ordinal,))
    fresh = await Engine.open(database)
    with pytest.raises(AssertionError, match="not stored"):
        await fresh.send(room.room_id, ALICE, "hello")


async def test_a_process_that_writes_little_is_not_crowded_out(database: Database, database_url: str) -> None:
    """Many write a room without a pause in one process, one does so in another: everybody's event is written."""
    other, over = Database(reactor, database_url), False
    try:
        busy, quiet = await Engine.open(database), await Engine.open(other)
        room = await busy.new_room()
        await busy.join(room.room_id, BOB)

        async def crowd() -> None:
            while not over:
                await busy.send(room.room_id, ALICE, "and another")

        crowds = [Deferred.fromCoroutine(crowd()) for _ in range(10)]
        for n in range(40):
            await quiet.send(room.room_id, BOB, str(n))
        over = True
        await gatherResults(crowds)
        timeline = await whole_timeline(busy, room.key)
        assert [prev_events(event) for event in timeline[1:]] == [[event.event_id] for event in timeline[:-1]]
        assert sum(event.sender == BOB and event.type == "m.room.message" for event in timeline) == 40
    finally:
        over = True
        await other.close()
