# SPDX-License-Identifier: Apache-2.0
"""First and following syncs of a plain client: rooms, timelines, state, tokens, and what costs nothing."""

from __future__ import annotations

import orjson
import pytest

from homeserver.events.rendering import DELAYED
from homeserver.protocol.tokens import PlaceToken, SyncToken
from homeserver.rooms.engine import Draft
from storage.database import Database
from storage.events import TimelinePlace
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, member
from tests.sync.sync_fixture import Process, filtered, topic, types


async def test_a_first_sync_gives_the_state_at_the_start_of_the_timeline(database: Database) -> None:
    """State and timeline put together are the room; what the timeline tells, the state does not."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    await process.write(room.room_id, topic("first"))
    await process.send(room.room_id, BOB, *map(str, range(7)))
    await process.write(room.room_id, topic("second"))
    await process.send(room.room_id, BOB, "last")
    alice = process.client()
    await alice.sync()
    timeline = alice.timeline(room.room_id)
    assert types(timeline) == ["m.room.topic", *["m.room.message"] * 7, "m.room.topic", "m.room.message"]
    state = alice.state(room.room_id)
    assert ("m.room.topic", "") not in state
    assert alice.members(room.room_id) == {ALICE, BOB}
    assert alice.room(room.room_id)["timeline"]["limited"] is True
    assert "room_id" not in timeline[0] and "room_id" not in next(iter(state.values()))
    assert alice.room(room.room_id)["summary"]["m.heroes"] == [BOB]


async def test_the_state_is_rewound_to_what_stood_before(database: Database) -> None:
    """A topic changed within the timeline: the state has the one that was changed."""
    process = await Process.open(database)
    room = await process.engine.new_room(more=[topic("old")])
    await process.send(room.room_id, ALICE, "a")
    await process.write(room.room_id, topic("new"))
    alice = process.client(filter=filtered(timeline={"limit": 1}))
    await alice.sync()
    assert alice.timeline(room.room_id)[0]["content"] == {"topic": "new"}
    assert alice.timeline(room.room_id)[0]["unsigned"]["prev_content"] == {"topic": "old"}
    assert alice.state(room.room_id)["m.room.topic", ""]["content"] == {"topic": "old"}


async def test_a_whole_room_in_the_timeline_leaves_no_state(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    alice = process.client()
    await alice.sync()
    assert alice.state(room.room_id) == {}
    assert alice.timeline(room.room_id)[0]["type"] == "m.room.create"
    assert alice.room(room.room_id)["timeline"]["limited"] is False


async def test_following_syncs_give_each_event_once(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    other = await process.engine.new_room()
    alice = process.client()
    await alice.sync()
    await process.send(room.room_id, ALICE, "one", "two")
    await alice.sync()
    assert alice.bodies(room.room_id) == ["one", "two"]
    assert not alice.has(other.room_id)
    assert alice.state(room.room_id) == {}
    assert "summary" not in alice.room(room.room_id)
    before = alice.since
    await alice.sync()
    assert alice.last["rooms"] == {"join": {}, "invite": {}, "knock": {}, "leave": {}}
    assert not alice.has_news and alice.since == before


async def test_the_same_token_gives_the_same_again(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    alice = process.client()
    await alice.sync()
    since = alice.since
    await process.send(room.room_id, ALICE, "one")
    first = await alice.sync()
    alice.since = since
    assert await alice.sync() == first
    await process.send(room.room_id, ALICE, "two")
    alice.since = since
    await alice.sync()
    assert alice.bodies(room.room_id) == ["one", "two"]


async def test_a_following_sync_asks_the_database_nothing(database: Database) -> None:
    """Neither when nothing happened nor when a message arrived, nor when somebody joined."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    alice = process.client()
    await alice.sync()
    await process.send(room.room_id, ALICE, "warm")
    await alice.sync()
    await process.send(room.room_id, ALICE, "news")
    await process.engine.join(room.room_id, BOB)
    statements = _statements(database)
    await alice.sync()
    assert types(alice.timeline(room.room_id)) == ["m.room.message", "m.room.member"]
    await alice.sync()
    assert _statements(database) == statements


async def test_a_first_sync_asks_as_much_for_many_rooms_as_for_few(database: Database) -> None:
    """The number of queries does not depend on the number of rooms, nor does a cold process'."""
    process = await Process.open(database)
    counts = []
    for _ in range(2):
        for _ in range(6):
            room = await process.engine.new_room()
            await process.engine.join(room.room_id, BOB)
            await process.send(room.room_id, BOB, *map(str, range(12)))
        for lazy in (False, True):
            cold = await Process.open(database)
            before = _statements(database)
            client = cold.client(filter=filtered(state={"lazy_load_members": lazy}))
            await client.sync()
            counts.append(_statements(database) - before)
            assert all(len(client.timeline(r)) == 10 for r in client.last["rooms"]["join"])
    assert counts[:2] == counts[2:]
    assert 0 < max(counts) <= 6, counts


def _statements(database: Database) -> int:
    """How many the database has been sent so far."""
    return int(
        sum(
            sample.value
            for metric in database.metrics.collect()
            for sample in metric.samples
            if sample.name.startswith("lares_database_statement") and sample.name.endswith("_count")
        )
    )


async def test_prev_batch_is_the_place_before_the_timeline(database: Database) -> None:
    """Paging backwards from it gives the event just before the first one, and no other."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.send(room.room_id, ALICE, *map(str, range(20)))
    alice = process.client()
    await alice.sync()
    place = TimelinePlace(*PlaceToken.parse(alice.room(room.room_id)["timeline"]["prev_batch"]))
    page = await process.engine.events.page(room.key, place, backwards=True, limit=1)
    assert orjson.loads(page[0].pdu)["content"]["body"] == "9"
    assert alice.bodies(room.room_id)[0] == "10"


async def test_a_process_that_is_behind_the_token_says_nothing_new(database: Database) -> None:
    process = await Process.open(database)
    await process.engine.new_room()
    alice = process.client()
    alice.since = SyncToken(10**6, 7)
    await alice.sync()
    assert alice.since == SyncToken(10**6, 7) and not alice.has_news


async def test_events_beyond_the_end_of_a_response_are_left_out_and_undone(database: Database) -> None:
    """A room's head may be ahead of what may be shown: neither its events nor its state leak."""
    process = await Process.open(database)
    room = await process.engine.new_room(more=[topic("shown")])
    await process.send(room.room_id, ALICE, "shown")
    # What other processes write is known from the database before it may be shown.
    held = process.engine.stream.position
    await process.write(room.room_id, topic("beyond"), Draft("m.room.name", ALICE, {"name": "beyond"}, ""))
    await process.engine.join(room.room_id, BOB)
    process.engine.stream._positions.current = held  # the announcement is on its way
    for warm in (True, False):
        reader = process if warm else await Process.open(database)
        reader.engine.stream._positions.current = held
        alice = reader.client(filter=filtered(timeline={"limit": 1}))
        await alice.sync()
        assert alice.bodies(room.room_id) == ["shown"]
        state = alice.state(room.room_id)
        assert state["m.room.topic", ""]["content"] == {"topic": "shown"}
        assert ("m.room.name", "") not in state and alice.members(room.room_id) == {ALICE}
        assert alice.room(room.room_id)["summary"] == {
            "m.joined_member_count": 1,
            "m.invited_member_count": 0,
            "m.heroes": [],
        }
        bob = reader.client(BOB)
        await bob.sync()
        assert bob.last["rooms"]["join"] == {}


async def test_a_cold_process_goes_on_from_another_ones_token(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.new_room()
    alice = process.client()
    await alice.sync()
    await process.send(room.room_id, ALICE, "one")
    cold = await Process.open(database)
    await alice.sync(process=cold)
    assert alice.bodies(room.room_id) == ["one"]
    assert list(alice.last["rooms"]["join"]) == [room.room_id]


async def test_every_section_is_there_and_nothing_is_null(database: Database) -> None:
    """Clients stumble over what is absent, and over null."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    alice = process.client()
    response = await alice.sync()
    assert response["to_device"] == {"events": []} and response["presence"] == {"events": []}
    assert response["account_data"] == {"events": []} and response["device_one_time_keys_count"] == {}
    assert response["device_unused_fallback_key_types"] == []
    assert response["device_lists"] == {"changed": [], "left": []}
    entry = alice.room(room.room_id)
    assert entry["unread_notifications"] == {"highlight_count": 0, "notification_count": 0}
    assert entry["ephemeral"] == entry["account_data"] == {"events": []}
    assert b"null" not in orjson.dumps(response)


async def test_full_state_repeats_the_state_but_not_the_timeline(database: Database) -> None:
    process = await Process.open(database)
    room, other = await process.engine.new_room(more=[topic("t")]), await process.engine.new_room()
    alice = process.client()
    await alice.sync()
    await process.send(room.room_id, ALICE, "one")
    await alice.sync(full_state=True)
    assert alice.bodies(room.room_id) == ["one"] and alice.timeline(other.room_id) == []
    for each in (room, other):
        assert ("m.room.create", "") in alice.state(each.room_id)
        assert alice.members(each.room_id) == {ALICE}
    await alice.sync(full_state=True)
    assert alice.timeline(room.room_id) == [] and ("m.room.topic", "") in alice.state(room.room_id)


async def test_the_senders_own_device_alone_gets_the_transaction_id(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    phone, laptop = process.client(device_id="PHONE"), process.client(device_id="LAPTOP")
    bob = process.client(BOB, "PHONE")
    for client in (phone, laptop, bob):
        await client.sync()
    await process.send_as_device(room.room_id, ALICE, "PHONE", "mine")
    unsigned = []
    for client in (bob, laptop, phone):
        await client.sync()
        unsigned.append(client.timeline(room.room_id)[0]["unsigned"].get("transaction_id"))
    assert unsigned == [None, None, "txn-mine"]


async def test_the_sender_alone_is_told_the_delay_id_of_an_event(database: Database) -> None:
    """On every device of theirs, and nothing made for them is shown to others (MSC4140)."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    clients = (
        process.client(device_id="PHONE"),
        process.client(BOB, "PHONE"),
        process.client(device_id="LAPTOP"),
    )
    for client in clients:
        await client.sync()
    await process.send_as_device(room.room_id, ALICE, DELAYED, "later")
    unsigned = []
    for client in clients:
        await client.sync()
        unsigned.append(client.timeline(room.room_id)[0]["unsigned"].get("org.matrix.msc4140.delay_id"))
    assert unsigned == ["txn-later", None, "txn-later"]


async def test_unsigned_tells_age_membership_and_what_was_replaced(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room(more=[topic("old")])
    alice = process.client()
    await alice.sync()
    await process.write(room.room_id, topic("new"))
    await alice.sync()
    unsigned = alice.timeline(room.room_id)[0]["unsigned"]
    assert unsigned["membership"] == "join" and unsigned["prev_content"] == {"topic": "old"}
    assert unsigned["replaces_state"].startswith("$") and isinstance(unsigned["age"], int)


@pytest.mark.parametrize("field", ["state_after", "org.matrix.msc4222.state_after"])
async def test_state_after_is_the_state_at_the_end(database: Database, field: str) -> None:
    """Under the name that was asked for, and `state` is absent."""
    process = await Process.open(database)
    room = await process.engine.new_room(more=[topic("old")])
    alice = process.client(state_after=field)
    await alice.sync()
    assert alice.state(room.room_id)["m.room.topic", ""]["content"] == {"topic": "old"}
    assert alice.members(room.room_id) == {ALICE}
    await process.write(room.room_id, topic("new"), topic("newer"))
    await process.send(room.room_id, ALICE, "hello")
    await alice.sync()
    assert {key: e["content"] for key, e in alice.state(room.room_id).items()} == {
        ("m.room.topic", ""): {"topic": "newer"}
    }
    assert "state" not in alice.room(room.room_id)
    await process.send(room.room_id, ALICE, "hello")
    await alice.sync()
    assert alice.room(room.room_id)[field] == {"events": []}


async def test_redacted_events_come_with_the_reason(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    (event_id,) = await process.send(room.room_id, ALICE, "secret")
    alice = process.client()
    await process.redact(room.room_id, ALICE, event_id)
    await alice.sync()
    struck = next(e for e in alice.timeline(room.room_id) if e["event_id"] == event_id)
    assert struck["content"] == {}
    assert struck["unsigned"]["redacted_because"]["type"] == "m.room.redaction"


async def test_shared_timelines_forget_what_is_redacted(database: Database) -> None:
    """Bytes made for one listener before a redaction are not shown to another after it."""
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB)
    alice, bob = process.client(), process.client(BOB)
    await alice.sync()
    await bob.sync()
    (event_id,) = await process.send(room.room_id, ALICE, "secret")
    await alice.sync()
    assert alice.bodies(room.room_id) == ["secret"]
    await process.redact(room.room_id, ALICE, event_id)
    assert b"secret" not in orjson.dumps(await bob.sync())


async def test_heroes_are_the_first_five_others_or_those_who_left(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    users = [f"@u{n}:localhost" for n in range(7)]
    await process.engine.join(room.room_id, *users)
    alice = process.client()
    await alice.sync()
    assert alice.room(room.room_id)["summary"] == {
        "m.heroes": users[:5],
        "m.joined_member_count": 8,
        "m.invited_member_count": 0,
    }
    for user in users:
        await process.set_membership(room.room_id, user, "leave")
    await process.write(room.room_id, member(CAROL, "invite", ALICE))
    await alice.sync()
    assert alice.room(room.room_id)["summary"]["m.heroes"] == [CAROL]
    await process.set_membership(room.room_id, CAROL, "leave", ALICE)
    await alice.sync()
    assert len(alice.room(room.room_id)["summary"]["m.heroes"]) == 5
    await process.write(room.room_id, Draft("m.room.name", ALICE, {"name": "Lararium"}, ""))
    await alice.sync()
    assert "m.heroes" not in alice.room(room.room_id)["summary"]
