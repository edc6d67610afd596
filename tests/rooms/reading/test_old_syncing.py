# SPDX-License-Identifier: Apache-2.0
"""`/events` and both forms of `/initialSync`."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred

from homeserver.errors import Forbidden, LimitExceeded
from homeserver.protocol.tokens import TokenError
from homeserver.rooms.reading import event_stream
from homeserver.web.signals import Signal
from storage.database import Database
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB, CAROL, member, message
from tests.rooms.reading.reading_fixture import Client, Kept, Reading, ids, visibility


async def events(
    reading: Reading,
    user: str,
    since: str | None = None,
    *,
    timeout: float = 0.0,
    room_id: str | None = None,
    ending: Signal | None = None,
) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(
        await reading.services.event_stream.wait(
            Client(user), since, timeout=timeout, room_id=room_id, ending=ending or Signal()
        )
    )
    return answer


async def reactor_turn() -> None:
    """Let others go on."""
    turn: Deferred[None] = Deferred()
    reactor.callLater(0.001, turn.callback, None)
    await turn


async def initial(reading: Reading, user: str, **options: Any) -> dict[str, Any]:
    asked = {"limit": None, "archived": False, **options}
    answer: dict[str, Any] = orjson.loads(await reading.services.initial_sync.of_user(Client(user), **asked))
    return answer


async def test_events_of_all_rooms_come_once_and_in_order(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when they are more than one answer holds, and some of them not to be seen."""
    monkeypatch.setattr(event_stream, "MOST", 3)
    reading = await Reading.open(database)
    rooms = [await reading.engine.new_room() for _ in range(3)]
    for room in rooms[:2]:
        await reading.engine.join(room.room_id, BOB)
    token = (await events(reading, BOB))["end"]
    expected = []
    for n in range(12):
        event_id = await reading.engine.send(rooms[n % 3].room_id, ALICE, str(n))
        if n % 3 < 2:
            expected.append(event_id)
    found: list[str] = []
    while True:
        answer = await events(reading, BOB, token)
        assert answer["start"] == token
        token = answer["end"]
        if not answer["chunk"]:
            break
        found.extend(ids(answer["chunk"]))
    assert found == expected


async def test_waiting_ends_with_news_time_or_the_server(database: Database) -> None:
    """A message ends the wait at once; a stop of the server ends it with what there is."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    token = (await events(reading, ALICE))["end"]
    assert (await events(reading, ALICE, token, timeout=0.01))["chunk"] == []
    waiting = Deferred.fromCoroutine(events(reading, ALICE, token, timeout=60))
    said = await reading.engine.send(room.room_id, ALICE, "news")
    assert ids((await waiting)["chunk"]) == [said]
    ending = Signal()
    waiting = Deferred.fromCoroutine(events(reading, ALICE, timeout=60, ending=ending))
    ending.fire()
    assert (await waiting)["chunk"] == []
    assert len(reading.engine.stream.listeners) == 0


async def test_one_user_cannot_wait_without_end(database: Database) -> None:
    """A hundred times at once, and not once more, unless there is something to tell; and nobody else is concerned."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room(visibility="world_readable")
    token = (await events(reading, ALICE))["end"]
    stream, ending = reading.engine.stream, Signal()
    waiting = [
        Deferred.fromCoroutine(events(reading, ALICE, token, timeout=60, ending=ending)) for _ in range(100)
    ]
    while len(stream.listeners.places) < 100:
        await reactor_turn()
    with pytest.raises(LimitExceeded):
        await events(reading, ALICE, token, timeout=60, room_id=room.room_id)
    other = Deferred.fromCoroutine(events(reading, BOB, timeout=60, room_id=room.room_id, ending=ending))
    said = await reading.engine.send(room.room_id, ALICE, "news")
    assert ids((await events(reading, ALICE, token, timeout=60))["chunk"]) == [said]
    assert all([ids((await each)["chunk"]) == [said] for each in waiting])
    assert ids((await other)["chunk"]) == [said]
    assert len(stream.listeners) == 0 and len(stream.listeners.places) == 0


async def test_one_hears_of_ones_own_invite_join_and_leave(database: Database) -> None:
    """The invite whatever the room's visibility; nothing after the leave."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room(join_rule="invite", visibility="joined")
    token = (await events(reading, BOB))["end"]
    written = await reading.write(
        room.room_id,
        member(BOB, "invite", ALICE),
        message(ALICE, "hidden"),
        member(BOB, "join"),
        message(ALICE, "seen"),
        member(BOB, "leave"),
        message(ALICE, "over"),
    )
    assert ids((await events(reading, BOB, token))["chunk"]) == [written[0], *written[2:5]]


async def test_a_room_open_to_all_can_be_followed(database: Database) -> None:
    """A stranger is woken for it, sees no more than is open, and is refused a private room."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room(visibility="world_readable")
    private = await reading.engine.new_room()
    start = orjson.loads(await reading.services.initial_sync.of_room(Client(CAROL), room.room_id, 2))
    assert "membership" not in start
    token = start["messages"]["end"]
    waiting = Deferred.fromCoroutine(events(reading, CAROL, token, timeout=60, room_id=room.room_id))
    said = await reading.engine.send(room.room_id, ALICE, "to all")
    answer = await waiting
    assert ids(answer["chunk"]) == [said]
    assert answer["chunk"][0]["room_id"] == room.room_id
    with pytest.raises(Forbidden):
        await events(reading, CAROL, token, room_id=private.room_id)
    waiting = Deferred.fromCoroutine(events(reading, CAROL, answer["end"], timeout=60, room_id=room.room_id))
    await reading.write(room.room_id, visibility(ALICE, "joined"))
    with pytest.raises(Forbidden):
        await waiting
    assert len(reading.engine.stream.listeners) == 0


async def test_a_wrong_token_is_refused(database: Database) -> None:
    """`t…` names a place of one room's timeline, not a point of the stream."""
    reading = await Reading.open(database)
    for token in ("t1_1", "x", ""):
        with pytest.raises(TokenError):
            await events(reading, ALICE, token)


async def test_ignored_users_are_not_heard(database: Database) -> None:
    """Their messages, that is."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    token = (await events(reading, ALICE))["end"]
    reading.world.ignoring[ALICE] = frozenset({BOB})
    written = await reading.write(room.room_id, member(BOB, "join"), message(BOB, "noise"))
    assert ids((await events(reading, ALICE, token))["chunk"]) == written[:1]


async def test_invites_that_are_not_wanted_are_not_shown(database: Database) -> None:
    """Those of ignored users, and all to a user who wants none."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room(join_rule="invite")
    token = (await events(reading, BOB))["end"]
    invite = (await reading.write(room.room_id, member(BOB, "invite", ALICE)))[0]

    async def shown() -> list[str]:
        rooms = (await initial(reading, BOB))["rooms"]
        heard = ids((await events(reading, BOB, token))["chunk"])
        assert heard == [room["invite"]["event_id"] for room in rooms]
        return heard

    assert await shown() == [invite]
    reading.world.ignoring[BOB] = frozenset({ALICE})
    assert await shown() == []
    reading.world.ignoring.clear()
    reading.world.blocking.add(BOB)
    assert await shown() == []


async def test_the_initial_sync_of_a_user(database: Database) -> None:
    """Joined rooms whole, invitations by their event, left ones as they were left if asked for."""
    reading = await Reading.open(database)
    joined, left, inviting = [await reading.engine.new_room() for _ in range(3)]
    reading.world.published.add(joined.key)
    tag = {"type": "m.tag", "content": {"tags": {}}}
    reading.world.kept = Kept([{"type": "m.direct", "content": {}}], {joined.key: [tag]})
    await reading.write(joined.room_id, member(BOB, "join"), message(ALICE, "hi"))
    await reading.write(left.room_id, member(BOB, "join"), message(ALICE, "bye"), member(BOB, "leave"))
    await reading.write(left.room_id, member(CAROL, "join"))
    invite = (await reading.write(inviting.room_id, member(BOB, "invite", ALICE)))[0]
    answer = await initial(reading, BOB, limit=2)
    rooms = {room["room_id"]: room for room in answer["rooms"]}
    assert rooms.keys() == {joined.room_id, inviting.room_id}
    assert rooms[inviting.room_id]["membership"] == "invite"
    assert rooms[inviting.room_id]["invite"]["event_id"] == invite
    room = rooms[joined.room_id]
    assert (room["membership"], room["visibility"], room["account_data"]) == ("join", "public", [tag])
    assert [event["type"] for event in room["messages"]["chunk"]] == ["m.room.member", "m.room.message"]
    assert len(room["state"]) == 6
    timeline = await reading.walk(BOB, joined.room_id, start=room["messages"]["start"])
    assert len(timeline) == 5
    assert answer["account_data"] == [{"type": "m.direct", "content": {}}]
    assert answer["presence"][0]["content"] == {"presence": "online"}
    said = await reading.engine.send(joined.room_id, ALICE, "news")
    assert ids((await events(reading, BOB, answer["end"]))["chunk"]) == [said]

    rooms = {room["room_id"]: room for room in (await initial(reading, BOB, archived=True))["rooms"]}
    old = rooms[left.room_id]
    assert old["membership"] == "leave"
    members = {
        e["state_key"]: e["content"]["membership"] for e in old["state"] if e["type"] == "m.room.member"
    }
    assert members == {ALICE: "join", BOB: "leave"}
    assert old["messages"]["chunk"][-1]["state_key"] == BOB


async def test_an_initial_sync_without_messages(database: Database) -> None:
    """Limit 0, and a user without any room."""
    reading = await Reading.open(database)
    room = await reading.engine.new_room()
    only = (await initial(reading, ALICE, limit=0))["rooms"][0]
    assert only["room_id"] == room.room_id
    assert only["messages"]["chunk"] == []
    assert len(only["state"]) == 5
    assert (await initial(reading, CAROL))["rooms"] == []
