# SPDX-License-Identifier: Apache-2.0
"""From a transaction into real rooms: what comes in is judged, stored and shown, and no lie moves a room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from federation.client.availability import AlwaysAvailable
from federation.client.calls import FederationCalls
from federation.client.client import FederationClient
from federation.client.metrics import ClientMetrics
from federation.inbound.assembly import Inbound, new_fetcher
from federation.inbound.budgets import OriginCosts
from federation.inbound.reading import PduReader
from homeserver.protocol.building import BuiltEvent
from homeserver.protocol.events import Event
from homeserver.rooms.arrival import RoomArrival
from homeserver.rooms.arrival.outliers import Outliers
from homeserver.rooms.engine import Room
from homeserver.rooms.intake.knowledge import States
from homeserver.rooms.intake.room_intake import RoomIntake
from storage.arrivals import ArrivalStore
from storage.database import Database
from storage.events import OUTLIER, REJECTED, SOFT_FAILED
from storage.received import ReceivedStore
from storage.room_history import RoomHistoryStore
from tests.federation.inbound.forging import KnownKeys, resigned
from tests.federation.inbound.in_memory import NoArrivals, NoStrays
from tests.federation.inbound.telling import PREFIX, Telling
from tests.federation.servers import Network, RemoteServer
from tests.reactor import reactor
from tests.rooms.arrival.arrival_fixture import KEY, OURS, pause
from tests.rooms.arrival.remote_room import RemoteRoom, incoming
from tests.rooms.engine_fixture import ALICE, Engine


class World:
    """Alice in a room of hydra's that evil is in as well, everything coming in by its door."""

    def __init__(self, database: Database, engine: Engine, version: str) -> None:
        self.engine = engine
        self.hydra, self.evil = RemoteServer("hydra.test"), RemoteServer("evil.test")
        self.us = RemoteServer(OURS, key=KEY)
        self.intake = _intake(database, engine)
        network = Network(self.hydra, self.evil)
        reader = PduReader(KnownKeys(self.hydra, self.evil, self.us), breathe=pause)
        self.inbound = Inbound.build(
            reactor,
            database=database,
            rooms=engine.cache,
            intake=self.intake,
            reader=reader,
            fetcher=new_fetcher(
                reactor, database=database, calls=_calls(network), reader=reader, intake=self.intake
            ),
            arrivals=NoArrivals(),
            strays=NoStrays(),
            costs=OriginCosts(reactor.seconds),
            edu_handlers={},
            server_name=OURS,
            worker="one",
        )
        self.remote = RemoteRoom(self.hydra, version)
        self.mallory = self.evil.user("mallory")
        self._serial = 0

    @classmethod
    async def open(cls, database: Database, version: str = "11") -> World:
        world = cls(database, await Engine.open(database), version)
        world.remote.member(world.mallory, "join", by=world.evil)
        await world.enter(world.remote)
        return world

    async def enter(self, remote: RemoteRoom) -> Room:
        """Bring Alice into the room."""
        arrival = RoomArrival(
            cache=self.engine.cache,
            stream=self.engine.stream,
            committer=self.engine.committer,
            store=ArrivalStore(self.engine.database),
            events=self.engine.events,
            intake=self.intake,
            server_name=OURS,
            pause=pause,
        )
        join = remote.event("m.room.member", {"membership": "join"}, ALICE, sender=ALICE, by=self.us)
        answer = remote.join_answer(join.event)
        return await arrival.arrive(
            remote.id,
            remote.version,
            incoming(join),
            remote.parsed(answer["state"]),
            remote.parsed(answer["auth_chain"]),
            partial=None,
        )

    async def send(self, *events: Event | BuiltEvent, by: RemoteServer | None = None) -> dict[str, Any]:
        """A transaction with the events, and everything that follows from it."""
        self._serial += 1
        origin = (by or self.hydra).name
        pdus = [each.event.pdu if isinstance(each, BuiltEvent) else each.pdu for each in events]
        body = {"origin": origin, "origin_server_ts": 1, "pdus": pdus}
        answer = orjson.loads(await self.inbound.transactions.receive(origin, str(self._serial), body))
        await self.inbound.backlog.idle()
        results: dict[str, Any] = answer["pdus"]
        return results

    def telling(self, server: RemoteServer, *hidden: BuiltEvent, more: Mapping[str, Event] = {}) -> Telling:
        """Have a server tell of the room, honestly but for what it hides."""
        events = {event_id: built.event for event_id, built in self.remote.events.items()}
        for each in hidden:
            del events[each.event.event_id]
        telling = Telling({**events, **more})
        telling.serve(server)
        return telling

    async def room(self) -> Room:
        room = await self.engine.cache.get(self.remote.id)
        assert room is not None
        return room

    async def flags(self, event: Event | BuiltEvent) -> int | None:
        """How the event is stored; None if it is not."""
        event_id = event.event.event_id if isinstance(event, BuiltEvent) else event.event_id
        stored = (await self.engine.events.by_ids([event_id])).get(event_id)
        return None if stored is None else stored.flags

    async def state(self, event_type: str, state_key: str = "") -> str | None:
        """The id of a piece of the present state."""
        entry = (await self.room()).head.state_event(event_type, state_key)
        return None if entry is None else entry.stored.event_id

    async def ends(self) -> set[str]:
        """Ids of the room's extremities."""
        return {event_id for event_id, _ in (await self.room()).head.extremities}


def _calls(network: Network) -> FederationCalls:
    client = FederationClient(
        server_name=OURS,
        signing_key=KEY,
        wire=network,
        availability=AlwaysAvailable(),
        metrics=ClientMetrics(),
    )
    return FederationCalls(client)


def _intake(database: Database, engine: Engine) -> RoomIntake:
    states = States(RoomHistoryStore(database))
    engine.stream.subscribe(states)
    stubs = ArrivalStore(database)
    return RoomIntake(
        engine=engine.engine,
        events=engine.events,
        received=ReceivedStore(database, engine.stream.origin),
        states=states,
        outliers=Outliers(store=stubs, events=engine.events, pause=pause),
        stubs=stubs,
    )


def ids(*events: BuiltEvent) -> dict[str, Any]:
    """Good results."""
    return {each.event.event_id: {} for each in events}


@pytest.mark.parametrize("version", ["1", "2", "3", "5", "6", "9", "10", "11", "12"])
async def test_what_a_server_says_is_in_the_room(database: Database, version: str) -> None:
    """Messages and state, and then we go on from there."""
    world = await World.open(database, version)
    topic = world.remote.send("m.room.topic", {"topic": "t"}, "")
    message = world.remote.message()
    assert await world.send(message, topic) == ids(topic, message)
    assert await world.ends() == {message.event.event_id}
    assert await world.state("m.room.topic") == topic.event.event_id
    ours = await world.engine.send(world.remote.id, ALICE, "and we")
    assert await world.ends() == {ours}


async def test_a_gap_is_filled(database: Database) -> None:
    """The messages in between are shown as well."""
    world = await World.open(database)
    messages = [world.remote.message(str(number)) for number in range(30)]
    world.telling(world.hydra)
    assert await world.send(messages[-1]) == ids(messages[-1])
    assert [await world.flags(each) for each in messages] == [0] * 30
    assert await world.ends() == {messages[-1].event.event_id}


async def test_a_gap_that_nobody_fills_is_bridged_by_the_state(database: Database) -> None:
    """As a server tells it; what came with it is known and has no place."""
    world = await World.open(database)
    topic = world.remote.send("m.room.topic", {"topic": "t"}, "")
    lost = [world.remote.message(str(number)) for number in range(3)]
    message = world.remote.message()
    world.telling(world.hydra, *lost)
    assert await world.send(message) == ids(message)
    assert await world.flags(message) == 0
    assert await world.flags(topic) == OUTLIER
    assert message.event.event_id in await world.ends()
    assert await world.state("m.room.topic") == topic.event.event_id


async def test_beside_a_bridged_gap_nothing_is_history(database: Database) -> None:
    """A branch less deep than the gap comes as a whole, be the room ours from its beginning or entered."""
    world = await World.open(database)
    base = world.remote.message("base")
    await world.send(base)
    lost = [world.remote.message(f"lost {number}") for number in range(10)]
    bridged = world.remote.message("bridged")
    branch = [base]
    for number in range(5):
        built = world.remote.event("m.room.message", {"body": f"branch {number}"}, prev=[branch[-1]])
        world.remote.events[built.event.event_id] = built
        branch.append(built)
    await world.engine.database.execute("filled", "DELETE FROM event_gaps")  # as if read to its beginning
    world.telling(world.hydra, *lost)
    await world.send(bridged)
    assert [await world.flags(each) for each in (lost[-1], bridged)] == [None, 0]
    await world.send(branch[-1])
    assert [await world.flags(each) for each in branch] == [0] * 6
    assert await world.ends() == {bridged.event.event_id, branch[-1].event.event_id}


async def test_an_event_allowed_by_events_of_another_room_is_rejected(database: Database) -> None:
    """Though its form is good; the answer says nothing of it."""
    world = await World.open(database)
    other = RemoteRoom(world.evil)
    await world.enter(other)
    auth = [other.state[key] for key in (("m.room.create", ""), ("m.room.power_levels", ""))]
    forged = world.evil.pdu(
        version="11",
        room_id=world.remote.id,
        event_type="m.room.topic",
        state_key="",
        content={"topic": "mine"},
        prev=world.remote.latest,
        auth=[*auth, other.state["m.room.member", world.evil.user()]],
        sender=world.evil.user(),
    )
    assert await world.send(forged, by=world.evil) == ids(forged)
    assert await world.flags(forged) == REJECTED
    assert await world.state("m.room.topic") is None


async def test_advisory_12_rejected_events_never_count(database: Database) -> None:
    """Neither as what allows another nor as part of a state, however often they are offered."""
    world = await World.open(database)
    coup = world.remote.event(
        "m.room.power_levels",
        {"users": {world.mallory: 100}},
        "",
        sender=world.mallory,
        by=world.evil,
    )
    assert await world.send(coup, by=world.evil) == ids(coup)
    assert await world.flags(coup) == REJECTED
    create, join = world.remote.state["m.room.create", ""], world.remote.state["m.room.member", world.mallory]
    topic = world.evil.pdu(
        version="11",
        room_id=world.remote.id,
        event_type="m.room.topic",
        state_key="",
        content={"topic": "mine"},
        sender=world.mallory,
        prev=[coup],
        auth=[create, join, coup],
    )
    await world.send(topic, by=world.evil)
    assert await world.flags(topic) == REJECTED
    nowhere = world.evil.pdu(
        version="11", room_id=world.remote.id, sender=world.mallory, prev=[coup], auth=[create, join]
    )
    after = world.evil.pdu(
        version="11",
        room_id=world.remote.id,
        event_type="m.room.topic",
        state_key="",
        content={"topic": "mine again"},
        sender=world.mallory,
        prev=[nowhere],
        auth=[create, join],
    )
    state = {
        **{key: built.event for key, built in world.remote.state.items()},
        coup.event.state_tuple: coup.event,
    }
    _lie(world.evil, [each.event_id for each in state.values()])
    await world.send(after, by=world.evil)
    assert await world.flags(after) != 0
    levels = world.remote.state["m.room.power_levels", ""].event.event_id
    assert await world.state("m.room.power_levels") == levels
    assert await world.state("m.room.topic") is None


def _lie(server: RemoteServer, state_ids: list[str]) -> None:
    server.on(
        "GET",
        f"{PREFIX}/state_ids/{{room}}",
        lambda _request: {"pdu_ids": state_ids, "auth_chain_ids": []},
    )


@pytest.mark.parametrize("version", ["2", "6", "11", "12"])
@pytest.mark.parametrize("between", [False, True], ids=["itself", "its parent"])
async def test_a_lie_about_the_state_takes_no_power_back(
    database: Database, version: str, between: bool
) -> None:
    """A server that once had power names the room's end and an event that is nowhere, and tells the state of its good
    days as the one before: states of what is known here weigh against it.
    """
    world = await World.open(database, version)
    creator = {} if version == "12" else {world.hydra.user(): 100}
    up = world.remote.send("m.room.power_levels", {"users": {**creator, world.mallory: 50}}, "")
    good_days = [built.event.event_id for built in world.remote.state.values()]
    down = world.remote.send("m.room.power_levels", {"users": creator}, "")
    assert await world.send(up, down) == ids(up, down)
    nowhere = world.remote.event("m.room.message", {"body": "x"}, sender=world.mallory, by=world.evil)
    prev = [*world.remote.latest, nowhere]
    if between:
        prev = [world.remote.event("m.room.message", {}, sender=world.mallory, by=world.evil, prev=prev)]
        world.evil.on("GET", f"{PREFIX}/event/{{event}}", _only(prev[0]))
    lie = world.remote.event("m.room.message", {"body": "y"}, sender=world.mallory, by=world.evil, prev=prev)
    _lie(world.evil, good_days)
    assert await world.send(lie, by=world.evil) == ids(lie)
    assert await world.state("m.room.power_levels") == down.event.event_id
    assert (await world.room()).head.power_levels.user_level(world.mallory) == 0


def _only(built: BuiltEvent) -> Any:
    return lambda _request: {"pdus": [built.event.pdu]}


async def test_advisory_26_the_greatest_depth_does_not_stop_a_room(database: Database) -> None:
    """What comes after has it as well, ours and theirs."""
    world = await World.open(database)
    deepest = world.remote.event("m.room.message", {"body": "deep"})
    deepest_pdu = resigned({**deepest.event.pdu, "depth": 2**53 - 1}, "11", world.hydra)
    deep = Event.from_pdu(deepest_pdu, world.remote.version)
    assert await world.send(deep) == {deep.event_id: {}}
    ours = await world.engine.send(world.remote.id, ALICE, "deeper")
    stored = (await world.engine.events.by_ids([ours]))[ours]
    assert stored.depth == 2**53 - 1
    assert await world.ends() == {ours}


async def test_what_the_present_state_forbids_is_no_error(database: Database) -> None:
    """It is kept, shown to nobody, and built on by nothing of ours."""
    world = await World.open(database)
    before = list(world.remote.latest)
    late = world.remote.event(
        "m.room.message", {"body": "evading"}, sender=world.mallory, by=world.evil, prev=before
    )
    ban = world.remote.member(world.mallory, "ban", sender=world.hydra.user())
    assert await world.send(ban) == ids(ban)
    assert await world.send(late, by=world.evil) in (ids(late), {late.event.event_id: {"error": "x"}})
    assert await world.flags(late) == SOFT_FAILED
    assert await world.ends() == {ban.event.event_id}


async def test_nul_is_refused_before_it_meets_the_database(database: Database) -> None:
    """And the event after it is in the room."""
    world = await World.open(database)
    bad = world.remote.event("m.x", {}, "a")
    bad_pdu = resigned({**bad.event.pdu, "state_key": "a\0"}, "11", world.hydra)
    good = world.remote.message("text with \0 in it")
    results = await world.send(Event.from_pdu(bad_pdu, world.remote.version), good)
    assert results.pop(good.event.event_id) == {}
    assert [set(result) for result in results.values()] == [{"error"}]
    assert await world.flags(good) == 0
