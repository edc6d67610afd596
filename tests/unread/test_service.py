# SPDX-License-Identifier: Apache-2.0
"""Unread counts on a real Postgres: what counts, what clears it, and what it costs. Each count is also asked of a
process that starts afresh and so works it out from the database alone.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from random import Random

import pytest
from twisted.internet.defer import Deferred, gatherResults

from homeserver.account_data import IGNORED_USER_LIST
from homeserver.events import RoomEvent
from homeserver.protocol.push_rules import PushRule, Reader
from homeserver.receipts.service import Kind
from homeserver.rooms.engine import Draft, Room
from homeserver.unread import Counts, UnreadCounts, judging, service
from homeserver.unread.judging import Judge, Verdict, Views
from homeserver.unread.ledger import THREADS_AS_ONE
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, member
from tests.unread import unread_fixture
from tests.unread.unread_fixture import NOTHING, Counter, mentioning, pause, related, text


async def room_of_three(counter: Counter) -> Room:
    """Alice's, with Bob and Carol, where nothing was said yet."""
    room = await counter.engine.new_room()
    await counter.engine.join(room.room_id, BOB, CAROL)
    return room


async def both(counter: Counter, database: Database, user_id: str, room: Room) -> UnreadCounts:
    """The counts, which a fresh process must find too."""
    counts = await counter.counts(user_id, room)
    assert await (await Counter.open(database)).counts(user_id, room) == counts
    return counts


def plain(notifications: int, highlights: int = 0) -> UnreadCounts:
    """Counts of a room without threads."""
    counts = Counts(notifications, highlights)
    return UnreadCounts(counts, counts, {})


async def test_messages_of_others_count_until_they_are_read(database: Database) -> None:
    """One's own do not; mentions highlight; a receipt clears up to its event; a private one does too."""
    counter = await Counter.open(database)
    room = await room_of_three(counter)
    assert await both(counter, database, BOB, room) == NOTHING
    await counter.write(room, ALICE, text())
    second = await counter.write(room, ALICE, mentioning(BOB))
    third = await counter.write(room, CAROL, text())
    assert await both(counter, database, BOB, room) == plain(3, 1)
    assert await both(counter, database, ALICE, room) == plain(1)
    assert await both(counter, database, CAROL, room) == NOTHING

    await counter.process.receipts.send(BOB, room.room_id, "m.read", second)
    assert await both(counter, database, BOB, room) == plain(1)
    await counter.process.receipts.send(BOB, room.room_id, "m.read.private", third)
    assert await both(counter, database, BOB, room) == NOTHING
    await counter.write(room, ALICE, text())
    assert await both(counter, database, BOB, room) == plain(1)


async def test_costly_rules_leave_turns_to_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts are the same, however often the reactor turns meanwhile."""
    turns: list[None] = []

    async def turn() -> None:
        turns.append(None)
        await pause()

    monkeypatch.setattr(unread_fixture, "pause", turn)
    counter = await Counter.open(database)
    room = await room_of_three(counter)
    rule = PushRule("a", ("notify", {"set_tweak": "highlight"}), pattern="a*b")
    await counter.process.push_rules.put(BOB, "content", rule)
    assert await counter.counts(BOB, room) == NOTHING
    for body in ("a to b", "a to c, b", "c b a") * 3:
        await counter.write(room, ALICE, text(body))
    assert await both(counter, database, BOB, room) == plain(9, 6)
    assert turns == []
    for module in (judging, service):
        monkeypatch.setattr(module, "TURN", 15)
    for body in ("a to b", "a to c, b", "c b a") * 3:
        await counter.write(room, ALICE, text(body))
    assert await both(counter, database, BOB, room) == plain(18, 12)
    assert len(turns) > 6


async def test_the_receipt_that_is_ahead_counts(database: Database) -> None:
    """Public and private receipts: one that lags behind changes nothing."""
    counter = await Counter.open(database)
    room = await room_of_three(counter)
    events = [await counter.write(room, ALICE, text()) for _ in "ABCD"]
    receipts = counter.process.receipts
    await receipts.send(BOB, room.room_id, "m.read", events[2])
    await receipts.send(BOB, room.room_id, "m.read.private", events[0])
    assert await both(counter, database, BOB, room) == plain(1)
    await receipts.send(BOB, room.room_id, "m.read.private", events[1])
    assert await both(counter, database, BOB, room) == plain(1)
    await receipts.send(BOB, room.room_id, "m.read.private", events[3])
    assert await both(counter, database, BOB, room) == NOTHING


async def test_threads_are_counted_and_read_apart(database: Database) -> None:
    """The specification's diagram: a threaded receipt clears its thread, an unthreaded one all up to it."""
    counter = await Counter.open(database)
    room = await room_of_three(counter)
    root = await counter.write(room, ALICE, text())
    other = await counter.write(room, ALICE, text())
    first = await counter.write(room, ALICE, related("m.thread", root))
    await counter.write(room, ALICE, related("m.thread", other))
    last = await counter.write(room, CAROL, related("m.thread", root))
    main = await counter.write(room, ALICE, related("m.reference", root))
    assert await both(counter, database, BOB, room) == UnreadCounts(
        Counts(6), Counts(3), {root: Counts(2), other: Counts(1)}
    )
    receipts = counter.process.receipts
    await receipts.send(BOB, room.room_id, "m.read", main, "main")
    assert await both(counter, database, BOB, room) == UnreadCounts(
        Counts(3), Counts(), {root: Counts(2), other: Counts(1)}
    )
    await receipts.send(BOB, room.room_id, "m.read.private", last, root)
    assert await both(counter, database, BOB, room) == UnreadCounts(Counts(1), Counts(), {other: Counts(1)})
    await receipts.send(CAROL, room.room_id, "m.read", first)
    assert await both(counter, database, CAROL, room) == UnreadCounts(
        Counts(2), Counts(1), {other: Counts(1)}
    )


async def test_the_thread_of_a_relation_is_its_parents(database: Database) -> None:
    """A rule that notifies of reactions: one to a message in a thread is in that thread, three hops at most."""
    counter = await Counter.open(database)
    room = await room_of_three(counter)
    rule = PushRule("all", ("notify",), conditions=())
    await counter.process.push_rules.put(BOB, "override", rule)
    root = await counter.write(room, BOB, text())
    reply = await counter.write(room, ALICE, related("m.thread", root))
    reaction = await counter.write(room, ALICE, related("m.annotation", reply), "m.reaction")
    further = await counter.write(room, ALICE, related("m.reference", reaction), "m.reaction")
    await counter.write(room, ALICE, related("m.annotation", root), "m.reaction")
    await counter.write(room, ALICE, related("m.annotation", "$unknown"), "m.reaction")
    assert await both(counter, database, BOB, room) == UnreadCounts(Counts(5), Counts(2), {root: Counts(3)})
    fourth = await counter.write(room, ALICE, related("m.reference", further), "m.reaction")
    await counter.write(room, ALICE, related("m.reference", fourth), "m.reaction")
    assert (await both(counter, database, BOB, room)).threads == {root: Counts(4)}


async def test_sending_is_reading(database: Database) -> None:
    """A message reads its thread up to there; a state event, which a new name writes everywhere, does not."""
    counter = await Counter.open(database)
    room = await room_of_three(counter)
    root = await counter.write(room, ALICE, text())
    await counter.write(room, ALICE, related("m.thread", root))
    rename = member(BOB, "join", displayname="Bob")
    await counter.engine.engine.write(room.room_id, lambda _: [rename], users=(BOB,))
    assert (await both(counter, database, BOB, room)).room == Counts(2)
    await counter.write(room, BOB, text())
    assert await both(counter, database, BOB, room) == UnreadCounts(Counts(1), Counts(), {root: Counts(1)})
    await counter.write(room, BOB, related("m.thread", root))
    assert await both(counter, database, BOB, room) == NOTHING


async def test_what_is_redacted_does_not_count(database: Database) -> None:
    """Looked at before or not, in memory or not."""
    counter = await Counter.open(database)
    room = await room_of_three(counter)
    first, second, third = [await counter.write(room, ALICE, mentioning(BOB)) for _ in range(3)]
    assert await both(counter, database, BOB, room) == plain(3, 3)
    await counter.redact(room, ALICE, second)
    assert await both(counter, database, BOB, room) == plain(2, 2)
    for _ in range(70):  # more than a room keeps in memory
        await counter.write(room, ALICE, text())
    assert await counter.total(BOB, room) == (72, 2)
    await counter.redact(room, ALICE, first)
    assert await both(counter, database, BOB, room) == plain(71, 1)
    assert third is not None


async def test_a_redacted_display_name_highlights_no_more(database: Database) -> None:
    """Whoever redacts a membership takes the name away without another event in its place."""
    counter = await Counter.open(database)
    room = await counter.engine.new_room()
    highlight = ("notify", {"set_tweak": "highlight"})
    named = PushRule("name", highlight, conditions=({"kind": "contains_display_name"},))
    await counter.process.push_rules.put(BOB, "override", named)
    draft = member(BOB, "join", displayname="Bobby")
    joined = await counter.engine.engine.write(room.room_id, lambda _: [draft], users=(BOB,))
    for number in (1, 2):
        await counter.write(room, ALICE, text("Bobby"))
        assert (await counter.total(BOB, room))[1] == number
    await counter.redact(room, ALICE, joined.event_id)
    for _ in range(2):
        assert (await counter.total(BOB, room))[1] == 0
        await counter.write(room, ALICE, text("Bobby"))


async def test_ignored_users_do_not_count(database: Database) -> None:
    """From the moment they are ignored, for what they had sent too; and again when they no longer are."""
    counter = await Counter.open(database)
    room = await room_of_three(counter)
    await counter.write(room, ALICE, text())
    await counter.write(room, CAROL, text())
    assert await both(counter, database, BOB, room) == plain(2)
    account_data = counter.process.account_data
    await account_data.put(BOB, IGNORED_USER_LIST, {"ignored_users": {ALICE: {}}})
    assert await both(counter, database, BOB, room) == plain(1)
    await counter.write(room, ALICE, text())
    assert await both(counter, database, BOB, room) == plain(1)
    await account_data.put(BOB, IGNORED_USER_LIST, {"ignored_users": {}})
    assert await both(counter, database, BOB, room) == plain(3)


async def test_the_users_rules_decide(database: Database) -> None:
    """A muted room counts no more; a keyword and one's name in the room highlight, for this user only."""
    counter = await Counter.open(database)
    room, rules = await room_of_three(counter), counter.process.push_rules
    highlight = ("notify", {"set_tweak": "highlight"})
    named = PushRule("name", highlight, conditions=({"kind": "contains_display_name"},))
    await rules.put(BOB, "override", named)
    await rules.put(BOB, "content", PushRule("tea", highlight, pattern="tea"))
    rename = member(BOB, "join", displayname="Robert")
    await counter.engine.engine.write(room.room_id, lambda _: [rename], users=(BOB,))
    for body in ("tea, anyone?", "teapot", "and robert: where are you", "bob"):
        await counter.write(room, ALICE, text(body))
    assert await both(counter, database, BOB, room) == plain(4, 2)
    assert await both(counter, database, CAROL, room) == plain(4, 0)
    await rules.put(CAROL, "room", PushRule(room.room_id, ()))
    await counter.write(room, ALICE, text())
    assert await counter.counts(CAROL, room) == plain(4)
    await counter.write(room, ALICE, text("tea"))
    assert await both(counter, database, BOB, room) == plain(6, 3)


async def test_counting_begins_with_the_membership(database: Database) -> None:
    """Nothing from before a join; nothing once out; after another join from there on."""
    counter = await Counter.open(database)
    room = await counter.engine.new_room()
    await counter.write(room, ALICE, text())
    assert await both(counter, database, BOB, room) == NOTHING
    await counter.engine.join(room.room_id, BOB)
    assert await both(counter, database, BOB, room) == NOTHING
    await counter.write(room, ALICE, text())
    assert await both(counter, database, BOB, room) == plain(1)
    await counter.engine.engine.write(room.room_id, lambda _: [member(BOB, "leave")], users=(BOB,))
    await counter.write(room, ALICE, text())
    assert await both(counter, database, BOB, room) == NOTHING
    await counter.engine.join(room.room_id, BOB)
    await counter.write(room, ALICE, text())
    assert await both(counter, database, BOB, room) == plain(1)


async def test_what_another_process_writes_counts(database: Database) -> None:
    """Events, redactions and receipts of another process, once this one shows them."""
    here, there = await Counter.open(database), await Counter.open(database)
    room = await room_of_three(here)
    await here.write(room, ALICE, text())
    assert await here.counts(BOB, room) == plain(1)
    second = await there.write(room, ALICE, text())
    third = await there.write(room, ALICE, text())
    await here.reached(there.engine.stream.position)
    assert await here.counts(BOB, room) == plain(3)
    await there.redact(room, ALICE, third)
    await here.reached(there.engine.stream.position)
    assert await here.counts(BOB, room) == plain(2)
    await there.process.receipts.send(BOB, room.room_id, "m.read", second)
    await here.reached(there.engine.stream.position)
    assert await here.counts(BOB, room) == NOTHING
    assert await there.counts(BOB, room) == NOTHING


async def test_simultaneous_questions_get_one_answer(database: Database) -> None:
    """Two devices ask at once, of rooms never looked at and of news of another process: nothing counts twice."""
    here, there = await Counter.open(database), await Counter.open(database)
    room = await room_of_three(here)
    for _ in range(2):
        await there.write(room, ALICE, text())
    await here.reached(there.engine.stream.position)
    answers = await gatherResults([Deferred.fromCoroutine(here.total(BOB, room)) for _ in range(3)])
    assert answers == [(2, 0)] * 3
    await there.write(room, ALICE, text())
    await here.reached(there.engine.stream.position)
    answers = await gatherResults([Deferred.fromCoroutine(here.total(BOB, room)) for _ in range(3)])
    assert answers == [(3, 0)] * 3


async def test_a_receipt_that_comes_while_events_are_read_is_applied(database: Database) -> None:
    """It was not there when the receipts were read, and the room is new to memory."""
    counter = await Counter.open(database)
    room = await room_of_three(counter)
    event_id = await counter.write(room, ALICE, text())
    asked = Deferred.fromCoroutine(counter.total(BOB, room))
    await counter.process.receipts.send(BOB, room.room_id, "m.read", event_id)
    await asked
    assert await counter.total(BOB, room) == (0, 0)


async def test_rooms_without_news_cost_no_query(database: Database) -> None:
    """Two queries for any number of rooms the first time, none for what is in memory from then on."""
    counter = await Counter.open(database)
    rooms = [await room_of_three(counter) for _ in range(5)]
    for room in rooms:
        await counter.write(room, ALICE, text())
    assert await counter.all_counts(BOB, *rooms) == [plain(1)] * 5
    assert counter.store.queries == ["receipts of 5", "events of 5"]
    for _ in range(10):
        event_id = await counter.write(rooms[0], ALICE, text())
        await counter.all_counts(BOB, *rooms)
    await counter.process.receipts.send(BOB, rooms[0].room_id, "m.read", event_id)
    assert await counter.all_counts(BOB, *rooms) == [NOTHING] + [plain(1)] * 4
    assert len(counter.store.queries) == 2


async def test_rooms_that_are_read_are_not_searched(database: Database) -> None:
    """Where the receipt is at the newest event, there is no need to look at any."""
    counter = await Counter.open(database)
    room = await room_of_three(counter)
    event_id = await counter.write(room, ALICE, text())
    await counter.process.receipts.send(BOB, room.room_id, "m.read", event_id)
    fresh = await Counter.open(database)
    assert await fresh.counts(BOB, room) == NOTHING
    assert fresh.store.queries == ["receipts of 1", "events of 0"]


async def test_memory_is_bounded_by_forgetting_users(database: Database) -> None:
    """Who asked longest ago is forgotten, and is told the same when asking again."""
    counter = await Counter.open(database, capacity=2)
    rooms = [await room_of_three(counter) for _ in range(2)]
    for room in rooms:
        await counter.write(room, ALICE, text())
    assert await counter.all_counts(BOB, *rooms) == [plain(1)] * 2
    assert await counter.all_counts(CAROL, *rooms) == [plain(1)] * 2
    asked = len(counter.store.queries)
    assert await counter.all_counts(CAROL, *rooms) == [plain(1)] * 2
    assert len(counter.store.queries) == asked
    assert await counter.all_counts(BOB, *rooms) == [plain(1)] * 2
    assert len(counter.store.queries) == asked + 2


async def test_what_is_unread_in_many_threads_counts_for_more(database: Database) -> None:
    """Until it is read, or forgotten with the user."""
    counter = await Counter.open(database, capacity=5)
    room = await room_of_three(counter)
    await counter.counts(CAROL, room)
    await counter.counts(BOB, room)
    sizes = [(counter.unread.size, counter.quick.size)]
    for _ in range(4 * THREADS_AS_ONE):
        root = await counter.write(room, ALICE, text())
        last = await counter.write(room, ALICE, related("m.thread", root))
        await counter.counts(BOB, room)
        sizes.append((counter.unread.size, counter.quick.size))
    assert sizes[0] == (2, 2)
    assert max(sizes) == sizes[-1] == (5, 5)  # without Carol, who asked longest ago
    await counter.process.receipts.send(BOB, room.room_id, "m.read", last)
    assert await counter.counts(BOB, room) == NOTHING
    assert (counter.unread.size, counter.quick.size) == (1, 1)


async def test_what_users_are_called_is_forgotten_with_their_counts(database: Database) -> None:
    """Names at hand are within the capacity too; one of any length is heeded, and not kept."""
    earlier = readers()  # kept, lest a new one is at the same place in memory
    counter = await Counter.open(database, capacity=2)
    rooms = [await room_of_three(counter) for _ in range(2)]
    highlight = ("notify", {"set_tweak": "highlight"})
    named = PushRule("name", highlight, conditions=({"kind": "contains_display_name"},))
    await counter.process.push_rules.put(CAROL, "override", named)
    rename = member(CAROL, "join", displayname="carol " * 100)
    await counter.engine.engine.write(rooms[1].room_id, lambda _: [rename], users=(CAROL,))
    for user_id in (BOB, CAROL):
        await counter.all_counts(user_id, *rooms)
        for room in rooms:
            await counter.write(room, ALICE, text("carol " * 100))
        await counter.all_counts(user_id, *rooms)
    assert (await counter.total(CAROL, rooms[0]), await counter.total(CAROL, rooms[1])) == ((2, 0), (2, 2))
    gc.collect()
    names = [each.display_name for each in readers() if not any(each is old for old in earlier)]
    assert len(names) == 1
    assert names[0] is None


def readers() -> list[Reader]:
    """Those there are; what an earlier test had may not be gone yet."""
    return [each for each in gc.get_objects() if isinstance(each, Reader)]


async def test_what_rules_take_in_vain_counts_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rooms are judged at once for no longer than a turn, whether that brought them up to date or not."""
    counter = await Counter.open(database)
    rooms = [await room_of_three(counter) for _ in range(4)]
    slow = PushRule("slow", ("notify",), pattern="s?ow")
    await counter.process.push_rules.put(CAROL, "content", slow)
    keys = [room.key for room in rooms]
    await counter.quick.counts(CAROL, keys, counter.engine.stream.position)
    for room in rooms:
        for _ in range(2):
            await counter.write(room, ALICE, text("slow rules"))
    tried: list[list[Verdict] | None] = []

    def judge_simple(judge: Judge, entries: Sequence[RoomEvent], views: Views) -> list[Verdict] | None:
        verdicts = simply(judge, entries, views)
        tried.append(verdicts)
        return verdicts

    simply = Judge.judge_simple
    monkeypatch.setattr(Judge, "judge_simple", judge_simple)
    for module in (service, judging):
        monkeypatch.setattr(module, "TURN", 5)
    found = await counter.quick.counts(CAROL, keys, counter.engine.stream.position)
    assert [found[key] for key in keys] == [plain(2)] * len(keys)
    assert tried == [None]


async def test_an_invite_or_an_unknown_room_has_no_counts(database: Database) -> None:
    """Only joined rooms have unread notifications."""
    counter = await Counter.open(database)
    room = await counter.engine.new_room(join_rule="invite")
    invite = Draft("m.room.member", ALICE, {"membership": "invite"}, BOB)
    await counter.engine.engine.write(room.room_id, lambda _: [invite], users=(ALICE, BOB))
    await counter.write(room, ALICE, text())
    assert await counter.unread.counts(BOB, [room.key, 999_999], counter.engine.stream.position) == {}


async def test_counts_kept_up_are_counts_worked_out(database: Database) -> None:
    """Over a long random history, what memory says after every step is what the database says to a fresh process."""
    counter, choose = await Counter.open(database), Random(20)
    room = await room_of_three(counter)
    events: list[str] = [await counter.write(room, ALICE, text())]
    roots: list[str] = [events[0]]
    receipts = counter.process.receipts

    async def speak() -> None:
        content = choose.choice((text(), mentioning(BOB, CAROL), related("m.thread", choose.choice(roots))))
        events.append(await counter.write(room, choose.choice((ALICE, BOB, CAROL)), content))
        if "m.relates_to" not in content and len(roots) < 3:
            roots.append(events[-1])

    async def read() -> None:
        kind: Kind = choose.choice(("m.read", "m.read.private"))
        event_id = choose.choice(events)
        content = (await counter.engine.events.by_ids((event_id,)))[event_id].pdu
        thread = next((root for root in roots if f'"event_id":"{root}"' in content), "main")
        await receipts.send(
            choose.choice((BOB, CAROL)), room.room_id, kind, event_id, choose.choice((None, thread))
        )

    async def strike() -> None:
        target = choose.choice([event_id for event_id in events if event_id not in roots] or events)
        stored = (await counter.engine.events.by_ids((target,)))[target]
        if stored.redacted_by is None and target not in roots:
            await counter.redact(room, ALICE, target)

    for step in range(120):
        await choose.choices((speak, read, strike), (6, 3, 1))[0]()
        asked = {user: await counter.counts(user, room) for user in (BOB, CAROL) if choose.random() < 0.7}
        if step % 8 == 0:
            fresh = await Counter.open(database)
            for user, counts in asked.items():
                assert await fresh.counts(user, room) == counts, (step, user)
