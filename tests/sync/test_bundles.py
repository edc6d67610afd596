# SPDX-License-Identifier: Apache-2.0
"""What events of limited timelines add up to with their children ("Aggregations of child events")."""

from __future__ import annotations

from typing import Any

from homeserver.rooms.engine import Draft
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, CAROL
from tests.sync.sync_fixture import Json, Process, filtered

LIMIT = 3


def related(sender: str, rel_type: str, parent: str, body: str = "x") -> Draft:
    content = {
        "body": body,
        "m.new_content": {"body": body},
        "m.relates_to": {"rel_type": rel_type, "event_id": parent},
    }
    return Draft("m.room.message", sender, content)


def relations_of(timeline: list[Json], event_id: str) -> dict[str, Any]:
    """Under `unsigned.m.relations` of one event of a timeline."""
    event = next(event for event in timeline if event["event_id"] == event_id)
    found: dict[str, Any] = event["unsigned"].get("m.relations", {})
    return found


async def test_only_limited_timelines_are_added_up(database: Database) -> None:
    """By an initial sync and over a gap; who is sent every event adds up by themselves."""
    process = await Process.open(database)
    room_id = (await process.engine.new_room()).room_id
    bob = process.client(BOB, filter=filtered(timeline={"limit": LIMIT}))
    await process.set_membership(room_id, BOB, "join")
    root = (await process.send(room_id, ALICE, "root"))[0]
    reply = (await process.write(room_id, related(BOB, "m.thread", root)))[0]
    edit = (await process.write(room_id, related(BOB, "m.replace", reply, "y")))[0]
    await bob.sync()
    assert bob.room(room_id)["timeline"]["limited"]
    thread = relations_of(bob.timeline(room_id), root)["m.thread"]
    assert (thread["count"], thread["current_user_participated"]) == (1, True)
    assert thread["latest_event"]["event_id"] == reply
    assert thread["latest_event"]["unsigned"]["m.relations"]["m.replace"]["event_id"] == edit
    assert relations_of(bob.timeline(room_id), reply)["m.replace"]["event_id"] == edit

    said = (await process.send(room_id, ALICE, "one"))[0]
    await process.write(room_id, related(ALICE, "m.reference", said))
    await bob.sync()
    assert not bob.room(room_id)["timeline"]["limited"]
    assert relations_of(bob.timeline(room_id), said) == {}

    *_, said = await process.send(room_id, ALICE, *"abcd")
    child = (await process.write(room_id, related(ALICE, "m.reference", said)))[0]
    await bob.sync()
    assert bob.room(room_id)["timeline"]["limited"]
    assert relations_of(bob.timeline(room_id), said) == {"m.reference": {"chunk": [{"event_id": child}]}}


async def test_readers_do_not_share_what_is_theirs(database: Database) -> None:
    """Nobody is told that they took part in a thread because somebody else did."""
    process = await Process.open(database)
    room_id = (await process.engine.new_room()).room_id
    await process.set_membership(room_id, BOB, "join")
    root = (await process.send(room_id, ALICE, "root"))[0]
    await process.write(room_id, related(ALICE, "m.thread", root))
    for user, took_part in ((ALICE, True), (BOB, False)):
        client = process.client(user, filter=filtered(timeline={"limit": LIMIT}))
        await client.sync()
        thread = relations_of(client.timeline(room_id), root)["m.thread"]
        assert thread["current_user_participated"] is took_part


async def test_children_one_may_not_see_do_not_count(database: Database) -> None:
    """Those after one has left, and those of ignored users."""
    process = await Process.open(database)
    room_id = (await process.engine.new_room()).room_id
    for user in (BOB, CAROL):
        await process.set_membership(room_id, user, "join")
    *_, said = await process.send(room_id, ALICE, *"abcd")
    hers = (await process.write(room_id, related(CAROL, "m.reference", said)))[0]
    await process.set_membership(room_id, BOB, "leave")
    his = (await process.write(room_id, related(ALICE, "m.reference", said)))[0]

    async def references(user: str, section: str) -> list[str]:
        client = process.client(user, filter=filtered(timeline={"limit": 4}, include_leave=True))
        await client.sync()
        found = relations_of(client.timeline(room_id, section), said)
        return [child["event_id"] for child in found["m.reference"]["chunk"]]

    assert await references(BOB, "leave") == [hers]
    assert await references(ALICE, "join") == [hers, his]
    process.fakes.account_data.ignoring[ALICE] = frozenset({CAROL})
    assert await references(ALICE, "join") == [his]
