# SPDX-License-Identifier: Apache-2.0
"""A room that another process writes is read up where it is in memory: the same room, at the cost of the news alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import REGISTRY
from twisted.internet.defer import Deferred, gatherResults

from homeserver.rooms.engine import Draft, Room, RoomHead
from storage.database import Database
from storage.rooms import NewsOfRoom, RoomStore
from storage.stream import CommitResult, StreamBatch, StreamStore
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, Engine, heard, member, message

DAVE = "@dave:elsewhere.example"
USERS = (BOB, CAROL, DAVE)


def statements(database: Database) -> Counter[str]:
    """How many the database has been sent so far, by name."""
    return Counter(
        {
            next(iter(sample.labels.values())): int(sample.value)
            for metric in database.metrics.collect()
            for sample in metric.samples
            if sample.name.startswith("lares_database_statement") and sample.name.endswith("_count")
        }
    )


def figure(name: str) -> float:
    """A counter's value."""
    return REGISTRY.get_sample_value(name) or 0.0


def form(head: RoomHead) -> dict[str, Any]:
    """All that a head says."""
    return {
        **{
            name: getattr(head, name)
            for name in RoomHead.__struct_fields__
            if not name.startswith("_") and name not in {"state", "version", "resolved_from"}
        },
        "members": dict(head.members),
        "hosts": dict(head.hosts),
        "fresh_members": dict(head.fresh_members),
        "state": {key: entry.stored for key, entry in head.state.items()},
        "level": head.power_levels.user_level(BOB),
    }


def a_step(rng: random.Random, room: Room) -> Draft:
    """Something that may be written there now."""
    head = room.head
    user = rng.choice(USERS)
    membership = head.membership(user)
    choice = rng.randrange(6)
    if choice == 0:
        return Draft("m.room.name", ALICE, {"name": str(rng.random())}, "")
    if choice == 1:
        levels = {"users": {ALICE: 100, BOB: rng.randrange(50)}}
        return Draft("m.room.power_levels", ALICE, levels, "")
    if choice in {2, 3}:
        if membership == "join":
            return (
                member(user, "join", displayname=str(rng.random()))
                if rng.random() < 0.5
                else member(user, rng.choice(("leave", "ban")), ALICE)
            )
        if membership == "ban":
            return member(user, "leave", ALICE)
        return member(user, "invite", ALICE) if membership is None and choice == 2 else member(user, "join")
    return message(ALICE, str(rng.random()) * rng.choice((1, 1, 100, 400)))


@pytest.mark.parametrize("tells", [False, True])
async def test_a_followed_room_is_the_room_as_it_would_be_loaded(database: Database, tells: bool) -> None:
    """Over random histories, written by both processes in turn, with redactions of what is in memory."""
    rng = random.Random(6)
    here, there = await Engine.open(database, tells=tells), await Engine.open(database, tells=tells)
    carried = figure("lares_rooms_carried_total")
    room = await here.new_room()
    await there.cache.get(room.room_id)
    reloaded = REGISTRY.get_sample_value("lares_rooms_reloaded_total")
    for _ in range(60):
        writer, reader = (there, here) if rng.random() < 0.7 else (here, there)
        for _ in range(rng.randrange(1, 4)):
            held = await writer.cache.get(room.room_id)
            assert held is not None
            drafts = [a_step(rng, held)]
            if rng.random() < 0.2:
                struck = rng.choice([*held.recent, *held.head.state.values()]).stored
                if struck.type != "m.room.create" and struck.redacted_by is None:
                    drafts.append(Draft("m.room.redaction", ALICE, {}, redacts=struck))

            def plan(_head: RoomHead, drafts: list[Draft] = drafts) -> list[Draft]:
                return drafts

            await writer.engine.write(room.room_id, plan, users=(ALICE, *USERS))
        await heard(reader, writer)
        followed = await reader.cache.get(room.room_id)
        assert followed is not None
        (loaded,) = await RoomStore(database).load(rooms=[room.key])
        assert form(followed.head) == form(RoomHead.of(loaded))
        stored = await reader.events.by_ordinals([(room.key, e.stored.ordinal) for e in followed.recent])
        assert [e.stored for e in followed.recent] == sorted(stored, key=lambda event: event.position)
        for user, standing in followed.head.members.items():
            entry = reader.member_events.peek(room.key, standing.ordinal)
            if entry is not None:
                (event,) = await reader.events.by_ordinals([(room.key, standing.ordinal)])
                assert entry.stored == event, user
    assert REGISTRY.get_sample_value("lares_rooms_reloaded_total") == reloaded
    assert (figure("lares_rooms_carried_total") > carried) is tells


async def test_a_message_comes_with_its_notification(database: Database, database_url: str) -> None:
    """Many at once, and of ten kilobytes together: nobody asks the database."""
    other = Database(reactor, database_url)
    try:
        here, there = await Engine.open(database, tells=True), await Engine.open(other, tells=True)
        room = await here.new_room()
        await heard(there, here)
        await there.cache.get(room.room_id)
        await there.join(room.room_id, BOB)
        await heard(here, there)
        await here.cache.get(room.room_id)
        listener = here.stream.listen(ALICE)
        before, wait = statements(database), listener.wait()
        sends = [Deferred.fromCoroutine(there.send(room.room_id, BOB, "news " * 300)) for _ in range(7)]
        ids = await gatherResults(sends)
        await wait
        await heard(here, there)
        followed = await here.cache.get(room.room_id)
        assert followed is room
        assert [entry.stored.event_id for entry in room.recent][-7:] == ids
        assert not statements(database) - before
        (loaded,) = await RoomStore(other).load(rooms=[room.key])
        assert form(room.head) == form(RoomHead.of(loaded))
    finally:
        await other.close()


async def test_what_is_told_while_a_room_is_read_up_goes_on_from_there(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A room that talks without a pause is read up once, not once for each time it spoke meanwhile."""
    here, there = await Engine.open(database, tells=True), await Engine.open(database, tells=True)
    room = await here.new_room()
    await there.cache.get(room.room_id)
    await there.join(room.room_id, BOB)  # which is not told in few words
    await heard(here, there)
    since, looks = RoomStore.since, 0

    async def overtaken(store: RoomStore, wanted: Sequence[tuple[int, int]]) -> list[NewsOfRoom]:
        nonlocal looks
        looks += 1
        news = await since(store, wanted)
        for body in ("one", "two"):
            await there.send(room.room_id, BOB, body)
        await heard(here, there)
        return news

    monkeypatch.setattr(RoomStore, "since", overtaken)
    for _ in range(2):
        await here.cache.get(room.room_id)
    assert looks == 1
    assert [entry.event.content.get("body") for entry in room.recent][-2:] == ["one", "two"]


async def test_what_was_told_of_a_room_and_read_up_besides_is_not_kept(database: Database) -> None:
    """Nothing would ever ask for it, and it would be weighed with each message that is said here."""
    here, there = await Engine.open(database, tells=True), await Engine.open(database, tells=True)
    room = await here.new_room()
    await there.cache.get(room.room_id)
    await there.join(
        room.room_id, BOB
    )  # which is not told in few words, and what follows does not go on without it
    for body in ("one", "two"):
        await there.send(room.room_id, BOB, body)
    await heard(here, there)
    assert room.told
    await here.cache.get(room.room_id)
    assert [entry.event.content.get("body") for entry in room.recent][-2:] == ["one", "two"]
    assert not room.told
    assert room.weight == room.measure()


async def test_news_of_many_rooms_cost_one_query_whoever_asks(database: Database, database_url: str) -> None:
    """And the rooms' members none, however many there are; what is known of them stays."""
    other = Database(reactor, database_url)
    try:
        here, there = await Engine.open(database), await Engine.open(other)
        rooms = [await here.new_room() for _ in range(5)]
        for room in rooms:
            await here.join(room.room_id, *(f"@user{n}:localhost" for n in range(20)))
        listeners = [here.stream.listen(f"@user{n}:localhost") for n in range(20)]
        await heard(there, here)
        ordinal = rooms[0].head.members["@user3:localhost"].ordinal
        assert here.member_events.peek(rooms[0].key, ordinal) is not None
        before, position = statements(database), here.stream.position
        waits = [listener.wait() for listener in listeners]
        await gatherResults(
            [Deferred.fromCoroutine(there.send(room.room_id, ALICE, "news")) for room in rooms]
        )
        await heard(here, there)
        for wait in waits:
            await wait
        await gatherResults(
            [
                Deferred.fromCoroutine(here.cache.get(room.room_id))
                for room in rooms
                for _listener in listeners
            ]
        )
        asked = statements(database) - before
        commits = here.stream.position - position
        assert commits == len(rooms)
        assert set(asked) == {"rooms_since"}
        assert asked["rooms_since"] <= commits
        assert [room.recent[-1].event.content["body"] for room in rooms] == ["news"] * 5
        assert all(room.recent_since(room.recent[-2].stored.position) is not None for room in rooms)
        assert here.member_events.peek(rooms[0].key, ordinal) is not None
    finally:
        await other.close()


async def test_processes_that_write_one_room_take_turns(database: Database, database_url: str) -> None:
    """Rather than each losing every other race. How many are lost by chance also depends on what else the machine does:
    of a few rounds one has to go well.
    """
    other = Database(reactor, database_url)
    try:
        here, there = await Engine.open(database), await Engine.open(other)
        room = await here.new_room()
        await heard(there, here)
        await there.cache.get(room.room_id)

        async def talk(engine: Engine) -> None:
            for n in range(20):
                await engine.send(room.room_id, ALICE, str(n))

        rounds: list[tuple[float, float]] = []
        while not rounds or 3 * rounds[-1][0] >= rounds[-1][1]:
            assert len(rounds) < 3, rounds
            lost, tried = (
                figure("lares_stream_head_conflicts_total"),
                figure("lares_stream_commit_positions_count"),
            )
            talking = [Deferred.fromCoroutine(talk(engine)) for engine in (here, there) for _ in range(5)]
            await gatherResults(talking)
            lost = figure("lares_stream_head_conflicts_total") - lost
            tried = figure("lares_stream_commit_positions_count") - tried
            rounds.append((lost, tried))
    finally:
        await other.close()


async def test_who_goes_away_does_not_stop_the_reading_for_others(database: Database) -> None:
    """The query is everybody's."""
    here, there = await Engine.open(database), await Engine.open(database)
    room = await here.new_room()
    await there.send(room.room_id, ALICE, "news")
    await heard(here, there)
    gone, stays = (Deferred.fromCoroutine(here.cache.get(room.room_id)) for _ in range(2))
    gone.addErrback(lambda _failure: None)
    gone.cancel()
    assert await stays is room
    assert room.recent[-1].event.content["body"] == "news"


async def test_who_lost_a_race_goes_on_from_what_it_was_told(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nobody waits for the room there."""
    other = Database(reactor, database_url)
    try:
        here, there = await Engine.open(database, tells=True), await Engine.open(other, tells=True)
        room = await here.new_room()
        await heard(there, here)
        await there.cache.get(room.room_id)
        commit, overtaken = StreamStore.commit, False

        async def late(store: StreamStore, batch: StreamBatch) -> CommitResult:
            nonlocal overtaken
            if not overtaken:
                overtaken = True
                await there.send(room.room_id, ALICE, "the winner's")
                await heard(here, there)
            return await commit(store, batch)

        monkeypatch.setattr(StreamStore, "commit", late)
        before = statements(database)
        await here.send(room.room_id, ALICE, "the loser's")
        assert set(statements(database) - before) == {"stream_commit"}
        bodies = [entry.event.content.get("body") for entry in room.recent]
        assert bodies[-2:] == ["the winner's", "the loser's"]
    finally:
        await other.close()


async def test_who_was_woken_for_what_cannot_be_shown_yet_is_woken_again(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another's commit may be heard of, and its room be read up, before the answer to the own one before it comes."""
    other = Database(reactor, database_url)
    try:
        here, there = await Engine.open(database), await Engine.open(other)
        room, quiet = await here.new_room(), await here.new_room(CAROL)
        await heard(there, here)
        await there.cache.get(room.room_id)
        stands: Deferred[None] = Deferred()
        answered: Deferred[None] = Deferred()
        commit = StreamStore.commit

        async def answered_late(store: StreamStore, batch: StreamBatch) -> CommitResult:
            result = await commit(store, batch)
            if not stands.called:
                stands.callback(None)
                await answered
            return result

        monkeypatch.setattr(StreamStore, "commit", answered_late)
        sending = Deferred.fromCoroutine(here.send(quiet.room_id, CAROL, "before"))
        await stands
        listener = here.stream.listen(ALICE)
        woken = listener.wait()
        await there.join(room.room_id, BOB)
        await woken
        assert here.stream.position < room.head.position
        again = listener.wait()
        answered.callback(None)
        await sending
        assert here.stream.position == room.head.position
        assert again.called
    finally:
        await other.close()
