# SPDX-License-Identifier: Apache-2.0
"""Lazy loading: members of the senders, once, and again when the record of what was sent is not to be trusted."""

from __future__ import annotations

from typing import Any

from homeserver.protocol.tokens import SyncToken
from homeserver.rooms.engine import Draft
from homeserver.sync.lazy_members import NOTHING_SENT, TOKENS_PER_DEVICE, SentMembers
from homeserver.sync.request import SyncRequest
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, member
from tests.sync.sync_fixture import Client, Process, filtered

DAVE = "@dave:localhost"
NAME = Draft("m.room.name", ALICE, {"name": "named, so that there are no heroes"}, "")


async def room_of_four(database: Database, **state: Any) -> tuple[Process, str, Client]:
    """Alice's room with three others, and her lazily loading client, which has yet to sync."""
    process = await Process.open(database)
    room = await process.engine.new_room(more=[NAME])
    await process.engine.join(room.room_id, BOB, CAROL, DAVE)
    await process.send(room.room_id, BOB, *map(str, range(10)))
    return process, room.room_id, process.client(filter=filtered(state={"lazy_load_members": True, **state}))


async def test_a_first_sync_has_the_senders_and_oneself(database: Database) -> None:
    _, room_id, alice = await room_of_four(database)
    await alice.sync()
    assert alice.members(room_id) == {ALICE, BOB}
    assert ("m.room.create", "") in alice.state(room_id)


async def test_heroes_are_members_too(database: Database) -> None:
    process = await Process.open(database)
    room = await process.engine.new_room()
    await process.engine.join(room.room_id, BOB, CAROL)
    await process.send(room.room_id, ALICE, *map(str, range(10)))
    alice = process.client(filter=filtered(state={"lazy_load_members": True}))
    await alice.sync()
    assert alice.room(room.room_id)["summary"]["m.heroes"] == [BOB, CAROL]
    assert alice.members(room.room_id) == {ALICE, BOB, CAROL}


async def test_members_are_sent_once(database: Database) -> None:
    process, room_id, alice = await room_of_four(database)
    await alice.sync()
    await process.send(room_id, BOB, "known")
    await process.send(room_id, CAROL, "new")
    await alice.sync()
    assert alice.members(room_id) == {CAROL}
    before = alice.since
    await process.send(room_id, CAROL, "again")
    await alice.sync()
    assert alice.members(room_id) == set()
    alice.since = before
    await alice.sync()
    assert alice.members(room_id) == set()  # the response may have been lost on the way


async def test_a_changed_member_is_sent_by_its_own_event(database: Database) -> None:
    process, room_id, alice = await room_of_four(database)
    await alice.sync()
    await process.write(room_id, member(BOB, "join", displayname="Bob"))
    await alice.sync()
    assert alice.members(room_id) == set() and alice.timeline(room_id)[0]["state_key"] == BOB
    await process.send(room_id, BOB, "renamed")
    await alice.sync()
    assert alice.members(room_id) == set()


async def test_redundant_members_are_sent_on_request(database: Database) -> None:
    process, room_id, alice = await room_of_four(database, include_redundant_members=True)
    await alice.sync()
    for _ in range(2):
        await process.send(room_id, BOB, "known")
        await alice.sync()
        assert alice.members(room_id) == {BOB}


async def test_a_token_that_is_not_remembered_gets_members_anew(database: Database) -> None:
    """Another process, and a client that goes far back."""
    process, room_id, alice = await room_of_four(database)
    await alice.sync()
    start = alice.since
    await process.send(room_id, BOB, "x")
    await alice.sync(process=await Process.open(database))
    assert alice.members(room_id) == {BOB}
    for _ in range(TOKENS_PER_DEVICE + 1):
        await process.send(room_id, CAROL, "x")
        await alice.sync()
    alice.since = start
    await alice.sync()
    assert alice.members(room_id) >= {BOB, CAROL}


async def test_news_without_rooms_has_no_member_sent_anew(database: Database) -> None:
    process, room_id, alice = await room_of_four(database)
    await alice.sync()
    process.fakes.keys.moved = await process.touch()
    request = SyncRequest(user_id=ALICE, device_id="DEVICE", since=alice.since, filter=alice.filter)
    response = process.sync.at_once(request)
    assert response is not None and response.has_news
    alice.since = response.next_batch
    await process.send(room_id, BOB, "known")
    await alice.sync()
    assert alice.members(room_id) == set()


async def test_members_that_changed_in_a_gap_are_sent_whoever_they_are(database: Database) -> None:
    process, room_id, alice = await room_of_four(database)
    await alice.sync()
    await process.write(room_id, member(DAVE, "join", displayname="Dave"))
    await process.send(room_id, CAROL, *map(str, range(12)))
    await alice.sync()
    assert alice.room(room_id)["timeline"]["limited"]
    assert alice.members(room_id) == {CAROL, DAVE}


async def test_a_member_is_given_as_it_stood_at_the_start_of_the_timeline(database: Database) -> None:
    """Or at its end, with `state_after`."""
    for field in (None, "state_after"):
        process = await Process.open(database)
        room = await process.engine.new_room(more=[NAME])
        await process.write(room.room_id, member(BOB, "join", displayname="old"))
        await process.send(room.room_id, ALICE, *map(str, range(10)))
        lazy = filtered(state={"lazy_load_members": True})
        alice = process.client(filter=lazy, state_after=field)
        await alice.sync()
        assert BOB not in alice.members(room.room_id)
        await process.send(room.room_id, BOB, "x")
        await process.write(room.room_id, member(BOB, "join", displayname="new"))
        await alice.sync()
        name = alice.state(room.room_id)["m.room.member", BOB]["content"]["displayname"]
        assert name == ("old" if field is None else "new")


async def test_joining_gives_oneself(database: Database) -> None:
    process, room_id, _ = await room_of_four(database)
    eve = process.client(
        "@eve:localhost", filter=filtered(state={"lazy_load_members": True}, timeline={"limit": 1})
    )
    await eve.sync()
    await process.engine.join(room_id, eve.user_id)
    await process.send(room_id, BOB, "welcome")
    await eve.sync()
    assert eve.members(room_id) == {BOB, eve.user_id}


async def test_a_left_room_has_its_senders(database: Database) -> None:
    process, room_id, alice = await room_of_four(database)
    await process.write(room_id, Draft("m.room.power_levels", ALICE, {"users": {ALICE: 100, BOB: 100}}, ""))
    await alice.sync()
    await process.send(room_id, CAROL, "bye")
    await process.set_membership(room_id, ALICE, "leave")
    await alice.sync()
    assert alice.members(room_id, "leave") == {CAROL}


def test_two_connections_that_meet_at_a_token_trust_neither() -> None:
    sent, token = SentMembers(), SyncToken(5, 0)
    one, other = NOTHING_SENT.plus([(1, ALICE, 1)]), NOTHING_SENT.plus([(1, BOB, 2)])
    sent.remember(ALICE, "D", None, token, one)
    sent.remember(ALICE, "D", None, token, NOTHING_SENT.plus([(1, ALICE, 1)]))
    assert sent.recall(ALICE, "D", token).has(1, ALICE, 1)
    sent.remember(ALICE, "D", None, token, other)
    assert sent.recall(ALICE, "D", token) is NOTHING_SENT


def test_responses_that_are_never_sent_do_not_push_out_what_the_client_has() -> None:
    sent, since = SentMembers(), SyncToken(1, 0)
    known = NOTHING_SENT.plus([(1, ALICE, 1)])
    sent.remember(ALICE, "D", None, since, known)
    for position in range(2, 20):
        sent.remember(ALICE, "D", since, SyncToken(position, 0), known)
    assert sent.recall(ALICE, "D", since) is known
    assert sent.recall(ALICE, "E", since) is NOTHING_SENT
    assert sent.recall(ALICE, "D", None) is NOTHING_SENT
