# SPDX-License-Identifier: Apache-2.0
"""Events that somebody links to, or that stood at some moment, and that are not here."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from twisted.internet.task import Clock

from homeserver.errors import Forbidden, NotFound
from homeserver.protocol.building import BuiltEvent
from storage.database import Database
from tests.federation.history.history_fixture import ALICE, PREFIX, Client, World, ids, pdus
from tests.federation.servers import Received
from tests.rooms.engine_fixture import member

BOB = "@bob:localhost"


async def arrived(database: Database, messages: int = 30, **options: Any) -> World:
    """Alice has come to a room with a past."""
    world = await World.open(database, **options)
    for number in range(messages):
        world.remote.message(str(number))
    await world.enter()
    return world


async def event(world: World, event_id: str, user: str = ALICE) -> dict[str, Any]:
    raw = await world.reading.services.event.get(Client(user), world.remote.id, event_id)
    found: dict[str, Any] = orjson.loads(raw)
    return found


async def test_an_event_that_is_not_here(database: Database) -> None:
    """It is shown, and leaves no hole around it for those who scroll by."""
    world = await arrived(database)
    wanted = world.line()[15]
    assert (await event(world, wanted))["event_id"] == wanted
    assert await world.walk(limit=10) == world.line()


async def test_its_surroundings(database: Database) -> None:
    """Before it and after it, what is missing is asked for, too."""
    world = await arrived(database)
    line = world.line()
    found = await world.context(line[15], 10)
    assert ids(found["events_before"]) == line[16:21]
    assert ids(found["events_after"]) == line[14:9:-1]


async def test_what_nobody_has(database: Database) -> None:
    """Is asked for once in a while; nonsense never."""
    clock = Clock()
    world = await arrived(database, clock=clock)
    unknown = "$" + "a" * 43
    for _ in range(3):
        with pytest.raises(NotFound):
            await event(world, unknown)
    assert len(world.hydra.requests("GET", f"{PREFIX}/event/")) == 1
    with pytest.raises(NotFound):
        await event(world, "no id")
    assert len(world.hydra.requests("GET", f"{PREFIX}/event/")) == 1


async def test_only_members_have_others_asked(database: Database) -> None:
    """Nor is what was fetched shown to those who may not see the room."""
    world = await arrived(database)
    wanted = world.line()[15]
    with pytest.raises((NotFound, Forbidden)):
        await event(world, wanted, BOB)
    assert not world.hydra.requests("GET", f"{PREFIX}/event/")
    await event(world, wanted)
    with pytest.raises((NotFound, Forbidden)):
        await event(world, wanted, BOB)


async def test_news_is_not_taken_for_history(database: Database) -> None:
    """An event that is asked for before it came is told as news when it comes."""
    world = await arrived(database)
    said = world.remote.message("just now")
    with pytest.raises(NotFound):
        await event(world, said.event.event_id)
    await world.receive(said)
    stored = (await world.engine.events.by_ids([said.event.event_id]))[said.event.event_id]
    assert stored.position > 0 and stored.flags == 0


async def test_beside_a_gap_an_event_is_news(database: Database) -> None:
    """What a gap of our own time leads back to is history; another branch, no deeper, is on its way."""
    world = await arrived(database, messages=0)
    base = world.remote.message("base")
    await world.receive(base)
    missed = [world.remote.message(str(number)) for number in range(5)]
    await world.receive(world.remote.message("bridged"), gap=True)
    beside = world.remote.event("m.room.message", {"body": "beside"}, prev=[base])
    world.remote.events[beside.event.event_id] = beside
    with pytest.raises(NotFound):
        await event(world, beside.event.event_id)
    assert await event(world, missed[2].event.event_id)
    await world.receive(beside)
    stored = (await world.engine.events.by_ids([beside.event.event_id]))[beside.event.event_id]
    assert stored.position > 0 and stored.flags == 0


async def test_an_event_of_another_room(database: Database) -> None:
    """Is not taken for one of this."""
    world = await arrived(database)
    other = type(world.remote)(world.hydra)
    stranger = other.message()
    world.hydra.on(
        "GET",
        f"{PREFIX}/event/{{event}}",
        lambda _request: {**pdus([stranger.event.pdu]), "origin": "hydra.test"},
    )
    with pytest.raises(NotFound):
        await event(world, stranger.event.event_id)


async def test_by_time(database: Database) -> None:
    """Where something nearer may be missing, other servers are asked."""
    world = await World.open(database)
    at = 1_000_000_000_000
    for number in range(20):
        built = world.hydra.pdu(
            version="11",
            room_id=world.remote.id,
            prev=world.remote.latest,
            auth=[
                world.remote.state[key]
                for key in (
                    ("m.room.create", ""),
                    ("m.room.power_levels", ""),
                    ("m.room.member", world.hydra.user()),
                )
            ],
            origin_server_ts=at + 1000 * number,
        )
        world.remote.add(built)
    await world.enter()
    line = world.line()
    by_time = world.reading.services.by_time
    found = await by_time.nearest(ALICE, world.remote.id, at + 5500, backwards=True)
    assert found.stored.event_id == line[15] and found.stored.origin_server_ts == at + 5000
    found = await by_time.nearest(ALICE, world.remote.id, at + 5500, backwards=False)
    assert found.stored.event_id == line[14]
    asked = len(world.hydra.requests("GET", f"{PREFIX}/timestamp_to_event/"))
    assert asked == 2
    await world.walk(limit=100)
    found = await by_time.nearest(ALICE, world.remote.id, at + 7500, backwards=True)
    assert found.stored.event_id == line[13]
    assert len(world.hydra.requests("GET", f"{PREFIX}/timestamp_to_event/")) == asked


async def test_by_time_lies(database: Database) -> None:
    """What is said to be nearest and is not, or is nothing at all, changes nothing of the answer."""
    world = await arrived(database)

    def lie(_request: Received) -> Any:
        return {"event_id": "rubbish\0", "origin_server_ts": 1}

    for server in (world.hydra, world.evil):
        server.on("GET", f"{PREFIX}/timestamp_to_event/{{room}}", lie)
    join = world.line()[0]
    found = await world.reading.services.by_time.nearest(ALICE, world.remote.id, 0, backwards=False)
    assert found.stored.event_id == join


async def test_who_has_left_sees_nothing_of_afterwards(database: Database) -> None:
    """Not even where it comes as history, by whichever door."""
    world = await World.open(database)
    await world.enter()
    await world.engine.join(world.remote.id, BOB)
    await take_ours(world)
    said = world.remote.message("before")
    await world.receive(said)
    await world.engine.engine.write(
        world.remote.id,
        lambda _head: [_leave(BOB)],
        users=(BOB,),
    )
    await take_ours(world)
    missed = [world.remote.message(str(number)) for number in range(5)]
    late = world.remote.message("late")
    await world.receive(late, gap=True)
    assert await world.walk(limit=10) == world.line()
    assert await event(world, said.event.event_id, BOB)
    for built in (*missed, late):
        with pytest.raises(NotFound):
            await event(world, built.event.event_id, BOB)
    line = world.line()
    assert await world.walk(BOB, limit=10) == line[6:]


def _leave(user: str) -> Any:
    return member(user, "leave")


async def take_ours(world: World) -> None:
    """What this server wrote reaches the others."""
    room = await world.engine.cache.get(world.remote.id)
    assert room is not None
    newest = room.recent[-1]
    world.remote.add(BuiltEvent(newest.event, newest.stored.pdu.encode()))


async def test_who_was_there_sees_what_only_members_may_see(database: Database) -> None:
    """Also what was missed then and came as history; who joined afterwards does not."""
    world = await World.open(database, visibility="joined")
    await world.enter()
    missed = [world.remote.message(str(number)) for number in range(5)]
    late = world.remote.message("late")
    await world.receive(late, gap=True)
    await world.engine.join(world.remote.id, BOB)
    await take_ours(world)
    line = world.line()
    bobs = [line[0], *line[-5:]]
    assert await world.walk(BOB, limit=10) == bobs
    assert (await world.walk(limit=10))[:7] == line[:7]
    assert await event(world, missed[0].event.event_id)
    with pytest.raises(NotFound):
        await event(world, missed[0].event.event_id, BOB)
