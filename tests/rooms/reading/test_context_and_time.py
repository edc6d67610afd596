# SPDX-License-Identifier: Apache-2.0
"""`/context` and `/timestamp_to_event`."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from homeserver.errors import NotFound
from homeserver.protocol.filters import RoomEventFilter
from homeserver.rooms.engine import Draft
from homeserver.rooms.reading.messages import NO_WISH
from storage.database import Database
from tests.rooms.engine_fixture import ALICE, BOB, member, message
from tests.rooms.reading.reading_fixture import Client, Reading, ids


async def context(reading: Reading, user: str, room_id: str, event_id: str, *args: Any) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(
        await reading.services.context.around(Client(user), room_id, event_id, *args)
    )
    return answer


@pytest.mark.parametrize(
    ("limit", "before", "after"), [(None, 5, 5), (3, 1, 2), (1, 0, 1), (0, 0, 0), (500, 11, 8)]
)
async def test_neighbours_share_the_limit(
    database: Database, limit: int | None, before: int, after: int
) -> None:
    """Nearest first on both sides; the tokens continue where the answer ends."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    said = await reading.write(room.room_id, *(message(ALICE, str(n)) for n in range(15)))
    answer = await context(reading, ALICE, room.room_id, said[6], limit, NO_WISH)
    timeline = await reading.walk(ALICE, room.room_id, backwards=False, limit=100)
    at = timeline.index(said[6])
    assert answer["event"]["event_id"] == said[6]
    assert ids(answer["events_before"]) == timeline[at - before : at][::-1]
    assert ids(answer["events_after"]) == timeline[at + 1 : at + 1 + after]
    assert await reading.walk(ALICE, room.room_id, start=answer["start"]) == timeline[: at - before][::-1]
    rest = await reading.walk(ALICE, room.room_id, start=answer["end"], backwards=False)
    assert rest == timeline[at + after + 1 :]


async def test_the_state_is_that_of_the_last_event(database: Database) -> None:
    """Not today's; the last event's own effect is part of it."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    topics = [Draft("m.room.topic", ALICE, {"topic": str(n)}, "") for n in range(4)]
    written = await reading.write(room.room_id, *topics)
    answer = await context(reading, ALICE, room.room_id, written[1], 2, NO_WISH)
    state = {(event["type"], event["state_key"]): event for event in answer["state"]}
    assert state["m.room.topic", ""]["event_id"] == written[2]
    assert len(state) == 6
    wish = RoomEventFilter.parse({"types": ["m.room.topic"]})
    answer = await context(reading, ALICE, room.room_id, written[1], 2, wish)
    assert ids(answer["state"]) == [written[2]]


async def test_lazy_loading_leaves_out_who_says_nothing(database: Database) -> None:
    """Members of the senders shown, all other state whole."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    await reading.write(room.room_id, member(BOB, "join", displayname="Bob"), message(BOB, "early"))
    said = await reading.write(room.room_id, *(message(ALICE, str(n)) for n in range(5)))
    wish = RoomEventFilter.parse({"lazy_load_members": True})
    answer = await context(reading, ALICE, room.room_id, said[3], 2, wish)
    members = [event["state_key"] for event in answer["state"] if event["type"] == "m.room.member"]
    assert members == [ALICE]
    assert {event["type"] for event in answer["state"]} >= {"m.room.create", "m.room.power_levels"}


async def test_unknown_and_foreign_events_are_not_found(database: Database) -> None:
    """An event of another room is none of this one's."""
    reading = await Reading.open(database)
    room, other = await reading.engine.new_room(), await reading.engine.new_room()
    event_id = await reading.engine.send(other.room_id, ALICE, "elsewhere")
    for wrong in (event_id, "$nothing"):
        with pytest.raises(NotFound):
            await context(reading, ALICE, room.room_id, wrong, None, NO_WISH)
        with pytest.raises(NotFound):
            await reading.services.event.get(Client(ALICE), room.room_id, wrong)


async def test_the_event_nearest_to_a_time(database: Database) -> None:
    """At it, or on the side asked for; clocks that went back included."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    times = [5_000, 1_000, 3_000, 3_000]
    drafts = [Draft("m.room.message", ALICE, {"n": n}, origin_server_ts=ts) for n, ts in enumerate(times)]
    said = await reading.write(room.room_id, *drafts)

    async def nearest(timestamp: int, backwards: bool) -> str:
        entry = await reading.services.by_time.nearest(ALICE, room.room_id, timestamp, backwards=backwards)
        return entry.stored.event_id

    assert await nearest(0, False) == said[1]
    assert await nearest(1_000, False) == await nearest(1_000, True) == said[1]
    assert await nearest(2_000, False) == said[2]
    assert await nearest(3_500, True) == said[3]
    assert await nearest(4_000, False) == await nearest(9_000, True) == said[0]
    for timestamp, backwards in ((999, True), (2**53 - 1, False)):
        with pytest.raises(NotFound):
            await nearest(timestamp, backwards)


async def test_the_nearest_event_is_one_that_may_be_seen(database: Database) -> None:
    """However many hidden ones stand nearer."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room(visibility="joined")
    await reading.engine.engine.write(
        room.room_id,
        lambda _: [Draft("m.room.message", ALICE, {}, origin_server_ts=1_000) for _ in range(250)],
        users=(ALICE,),
    )
    await reading.write(room.room_id, member(BOB, "join"))
    found = await reading.services.by_time.nearest(BOB, room.room_id, 500, backwards=False)
    assert (
        found.stored.type == "m.room.create"
    )  # sent before the visibility was set, when the default was in force
