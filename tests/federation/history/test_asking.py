# SPDX-License-Identifier: Apache-2.0
"""Whom this server asks for history, how often, how long it waits, and what it believes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from homeserver.protocol.events import Event
from homeserver.rooms.reading.walking import PATIENCE
from storage.database import Database
from storage.events import REJECTED
from tests.federation.history.history_fixture import PREFIX, World, ids, pdus
from tests.federation.inbound.forging import resigned
from tests.federation.servers import Received, Refused, RemoteServer
from tests.rooms.arrival.arrival_fixture import pause


async def arrived(database: Database, messages: int = 30, **options: Any) -> World:
    """Alice has come to a room with a past."""
    world = await World.open(database, **options)
    for number in range(messages):
        world.remote.message(str(number))
    await world.enter()
    return world


async def waiting(clock: Clock) -> None:
    """Until a reader waits."""

    def due() -> bool:
        calls: list[Any] = list(clock.getDelayedCalls())
        return any(call.getTime() <= clock.seconds() + PATIENCE for call in calls)

    while not due():
        await pause()


def backfilling(server: RemoteServer, answer: Callable[[Received], Any]) -> None:
    """Have a server answer so when it is asked for history."""
    server.on("GET", f"{PREFIX}/backfill/{{room}}", answer)


async def test_many_readers_ask_once(database: Database) -> None:
    world = await arrived(database)
    first, second = (Deferred.fromCoroutine(world.page(limit=20)) for _ in range(2))
    assert ids((await first)["chunk"]) == ids((await second)["chunk"]) == world.line()[:20]
    assert len(world.backfills()) == 1


async def test_a_server_that_takes_its_time(database: Database) -> None:
    """The page does not wait for ever, says that there is more, and the next one gets what came meanwhile."""
    clock = Clock()
    world = await arrived(database, clock=clock)
    held: Deferred[None] = Deferred()
    asked: Deferred[None] = Deferred()

    async def before(_destination: str, _method: str, target: str) -> None:
        if "/backfill/" in target:
            asked.callback(None)
            await held

    world.network.before = before
    first = Deferred.fromCoroutine(world.page(limit=20))
    await asked
    await waiting(clock)
    clock.advance(11)
    page = await first
    assert ids(page["chunk"]) == world.line()[:1]
    second = Deferred.fromCoroutine(world.page(limit=20, start=page["end"]))
    await waiting(clock)
    clock.advance(11)
    again = await second
    assert again["chunk"] == [] and again["end"] != page["end"]
    third = Deferred.fromCoroutine(world.page(limit=20, start=again["end"]))
    world.network.before = None
    held.callback(None)
    assert ids((await third)["chunk"]) == world.line()[1:21]
    assert len(world.backfills()) == 1


async def test_a_room_whose_members_are_not_all_known(database: Database) -> None:
    """Its past waits for them: it would be judged by a state that lacks who wrote it."""
    clock = Clock()
    world = await World.open(database, clock=clock)
    world.remote.message("hello")
    await world.enter(partial=True)
    reading = Deferred.fromCoroutine(world.page(limit=20))
    await waiting(clock)
    clock.advance(11)
    page = await reading
    assert ids(page["chunk"]) == world.line()[:1] and "end" in page
    assert world.backfills() == [] and world.backfills(world.evil) == []
    clock.advance(20)
    while clock.getDelayedCalls():
        await pause()


async def test_a_server_that_never_answers(database: Database) -> None:
    """Is given up, and the pages go on without it."""
    clock = Clock()
    world = await arrived(database, clock=clock)
    asked: Deferred[None] = Deferred()

    async def before(_destination: str, _method: str, target: str) -> None:
        if "/backfill/" in target:
            asked.callback(None)
            await Deferred()

    world.network.before = before
    reading = Deferred.fromCoroutine(world.page(limit=20))
    await asked  # its time runs from before that
    await waiting(clock)
    clock.advance(91)
    page = await reading
    assert ids(page["chunk"]) == world.line()[:1] and "end" in page
    page = await world.page(limit=20, start=page["end"])
    assert page["chunk"] == [] and "end" not in page


async def test_a_server_that_is_gone(database: Database) -> None:
    """Another is asked; where none is left the pages end, and soon afterwards they do not."""
    clock = Clock()
    world = await arrived(database, clock=clock)
    world.hydra.reachable = world.evil.reachable = False
    assert await world.walk(limit=20) == world.line()[:1]
    world.evil.reachable = True
    assert await world.walk(limit=20) == world.line()[:1]
    assert world.backfills(world.evil) == []
    clock.advance(61)
    assert await world.walk(limit=20) == world.line()
    assert len(world.backfills(world.evil)) == 1


async def test_servers_that_are_left_alone_are_not_asked(database: Database) -> None:
    world = await arrived(database)
    world.availability.left_alone.add("hydra.test")
    assert await world.walk(limit=20) == world.line()
    assert world.backfills() == [] and len(world.backfills(world.evil)) == 1


async def test_what_nobody_has_is_not_asked_for_on_every_scroll(database: Database) -> None:
    clock = Clock()
    world = await arrived(database, clock=clock)
    for server in (world.hydra, world.evil):
        backfilling(server, lambda _request: pdus([]))
    for _ in range(3):
        assert await world.walk(limit=20) == world.line()[:1]
    assert len(world.backfills()) == len(world.backfills(world.evil)) == 1
    clock.advance(1801)
    world.tell(world.hydra)
    assert await world.walk(limit=20) == world.line()


async def test_answers_that_lead_nowhere(database: Database) -> None:
    """Events of another room, events that are here already, forged ones: the next server is asked."""
    world = await arrived(database)
    other = type(world.remote)(world.hydra)
    join = world.remote.latest[0].event.pdu
    first = world.remote.events[world.line()[1]].event.pdu
    forged = {**first, "depth": first["depth"] - 1}

    def lie(_request: Received) -> Any:
        return pdus([*(built.event.pdu for built in other.events.values()), join, forged, {"type": 7}])

    backfilling(world.hydra, lie)
    assert await world.walk(limit=20) == world.line()
    stored = await world.engine.events.by_ids([each.event.event_id for each in other.events.values()])
    assert stored == {}


async def test_the_same_page_again(database: Database) -> None:
    """A server that always gives the same events is believed once."""
    world = await arrived(database, 150)
    page = [world.remote.events[event_id].event.pdu for event_id in world.line()[1:51]]
    backfilling(world.hydra, lambda _request: pdus(page))
    assert await world.walk(limit=60) == world.line()


async def test_what_is_not_less_deep_is_not_believed(database: Database) -> None:
    """Else the past would be shown as the newest of all, and a chain of it could be without end."""
    world = await World.open(database)
    await world.enter()
    previous = world.remote.latest[0].event
    made: dict[str, dict[str, Any]] = {}
    for depth in (3, 9000, 9001):
        built = world.remote.event(
            "m.room.message", {"body": "x"}, sender=world.evil.user("mallory"), by=world.evil
        )
        pdu = resigned(
            {**built.event.pdu, "depth": depth, "prev_events": [previous.event_id]}, "11", world.evil
        )
        previous = Event.from_pdu(pdu, world.remote.version)
        made[previous.event_id] = pdu
    late = world.evil.pdu(
        version="11",
        room_id=world.remote.id,
        sender=world.evil.user("mallory"),
        content={"body": "late"},
        prev=[previous],
        auth=[world.remote.state[key] for key in _needed(world.evil.user("mallory"))],
        depth=9000,
    )
    world.remote.add(late)
    await world.receive(late, gap=True)

    def lie(request: Received) -> Any:
        return pdus(made[each] for each in request.query["v"] if each in made)

    backfilling(world.evil, lie)
    found = await world.walk(limit=20)
    assert found[0] == late.event.event_id and made.keys().isdisjoint(found)


async def test_endless_history(database: Database) -> None:
    """A server makes up history as long as it is asked; no page takes more than it may, and each gets on."""
    world = await World.open(database)
    await world.enter()
    mallory = world.evil.user("mallory")
    chain: dict[str, Event] = {}
    previous = world.remote.latest[0].event
    for depth in range(100_000, 103_000):
        built = world.evil.pdu(
            version="11",
            room_id=world.remote.id,
            sender=mallory,
            content={"body": "x"},
            prev=[previous],
            auth=[world.remote.state[key] for key in _needed(mallory)],
            depth=depth,
        )
        previous = built.event
        chain[previous.event_id] = previous
    late = world.evil.pdu(
        version="11",
        room_id=world.remote.id,
        sender=mallory,
        prev=[previous],
        auth=[world.remote.state[key] for key in _needed(mallory)],
    )
    world.remote.add(late)
    await world.receive(late, gap=True)

    def lie(request: Received) -> Any:
        found: list[Any] = []
        wanted = list(request.query["v"])
        while wanted and len(found) < 100:
            event = chain.get(wanted.pop())
            if event is not None:
                found.append(event.pdu)
                wanted.extend(event.prev_event_ids)
        return pdus(found)

    backfilling(world.evil, lie)
    page = await world.page(limit=10)
    assert len(page["chunk"]) == 10 and len(world.backfills(world.evil)) == 1


async def test_forged_power_in_the_past(database: Database) -> None:
    """An event that its time did not allow is stored as rejected and shown to nobody; what came before it is shown."""
    world = await World.open(database)
    first = world.remote.message("first")
    mallory = world.evil.user("mallory")
    coup = world.remote.event("m.room.topic", {"topic": "mine"}, "", sender=mallory, by=world.evil)
    world.remote.events[coup.event.event_id] = coup
    world.remote.latest = [coup]
    await world.enter()
    found = await world.walk(limit=20)
    line = world.line()
    assert found == [each for each in line if each != coup.event.event_id]
    assert first.event.event_id in found
    stored = await world.engine.events.by_ids([coup.event.event_id])
    assert stored[coup.event.event_id].flags & REJECTED


async def test_a_server_that_refuses(database: Database) -> None:
    world = await arrived(database)

    def refuse(_request: Received) -> Any:
        raise Refused(403, "M_FORBIDDEN")

    backfilling(world.hydra, refuse)
    assert await world.walk(limit=20) == world.line()


async def test_who_helped_is_asked_first(database: Database) -> None:
    world = await arrived(database, 150)
    world.hydra.reachable = False
    assert ids((await world.page(limit=20))["chunk"]) == world.line()[:20]
    world.hydra.reachable = True
    assert await world.walk(limit=100) == world.line()
    assert world.backfills() == [] and len(world.backfills(world.evil)) == 2


def _needed(user: str) -> list[tuple[str, str]]:
    return [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", user)]
