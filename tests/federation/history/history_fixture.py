# SPDX-License-Identifier: Apache-2.0
"""A room of hydra's that Alice came to late, read through the reading services, its past told over federation."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson

from federation.client.availability import AlwaysAvailable
from federation.client.calls import FederationCalls
from federation.client.client import FederationClient
from federation.client.metrics import ClientMetrics
from federation.history.assembly import build_remote_history
from federation.inbound.assembly import new_fetcher
from federation.inbound.reading import PduReader
from homeserver.protocol.building import BuiltEvent
from homeserver.protocol.filters import RoomEventFilter
from homeserver.rooms.arrival import Partial, RoomArrival
from homeserver.rooms.arrival.outliers import Outliers
from homeserver.rooms.engine import Room
from homeserver.rooms.intake.incoming import Incoming, Outcome
from homeserver.rooms.intake.knowledge import States
from homeserver.rooms.intake.room_intake import RoomIntake
from homeserver.rooms.whole_rooms import WholeRooms
from storage.arrivals import ArrivalStore
from storage.database import Database
from storage.received import ReceivedStore
from storage.room_history import RoomHistoryStore
from tests.federation.inbound.forging import KnownKeys
from tests.federation.inbound.telling import PREFIX, Telling
from tests.federation.servers import Network, Received, RemoteServer
from tests.reactor import reactor
from tests.rooms.arrival.arrival_fixture import KEY, OURS, pause
from tests.rooms.arrival.remote_room import RemoteRoom, incoming
from tests.rooms.engine_fixture import ALICE, Engine
from tests.rooms.reading.reading_fixture import Client, Reading, ids


class SomeAvailable(AlwaysAvailable):
    """Servers named in `left_alone` are not to be asked."""

    def __init__(self) -> None:
        self.left_alone: set[str] = set()

    def may_try(self, destination: str) -> bool:
        return destination not in self.left_alone


class World:
    """See the module; evil is in the room as well, and both tell of it honestly unless a test has them not."""

    def __init__(self, database: Database, engine: Engine, version: str, visibility: str, clock: Any) -> None:
        self.database = database
        self.engine = engine
        self.hydra, self.evil = RemoteServer("hydra.test"), RemoteServer("evil.test")
        self.us = RemoteServer(OURS, key=KEY)
        self.network = Network(self.hydra, self.evil)
        self.availability = SomeAvailable()
        self.intake = _intake(database, engine)
        self.whole = WholeRooms(engine.cache, clock)
        engine.stream.subscribe(self.whole)
        client = FederationClient(
            server_name=OURS,
            signing_key=KEY,
            wire=self.network,
            availability=AlwaysAvailable(),
            metrics=ClientMetrics(),
        )
        calls = FederationCalls(client)
        reader = PduReader(KnownKeys(self.hydra, self.evil, self.us), breathe=pause)
        fetcher = new_fetcher(reactor, database=database, calls=calls, reader=reader, intake=self.intake)
        self.history = build_remote_history(
            clock,
            database=database,
            calls=calls,
            reader=reader,
            fetcher=fetcher,
            intake=self.intake,
            availability=self.availability,
            whole=self.whole,
            server_name=OURS,
        )
        self.remote = RemoteRoom(self.hydra, version, visibility=visibility)
        self.reading: Reading

    @classmethod
    async def open(
        cls,
        database: Database,
        version: str = "11",
        *,
        visibility: str = "shared",
        clock: Any = reactor,
    ) -> World:
        """The room is there; Alice is not yet in it. `clock` is what waiting for history goes by."""
        world = cls(database, await Engine.open(database), version, visibility, clock)
        world.reading = await Reading.open(database, engine=world.engine, missing=world.history)
        world.remote.member(world.evil.user("mallory"), "join", by=world.evil)
        world.tell(world.hydra)
        world.tell(world.evil)
        return world

    async def enter(self, *, partial: bool = False) -> Room:
        """Bring Alice into the room; `partial`: most of its members are left to be told later."""
        arrival = RoomArrival(
            cache=self.engine.cache,
            stream=self.engine.stream,
            committer=self.engine.committer,
            store=ArrivalStore(self.database),
            events=self.engine.events,
            intake=self.intake,
            server_name=OURS,
            pause=pause,
        )
        join = self.remote.event("m.room.member", {"membership": "join"}, ALICE, sender=ALICE, by=self.us)
        answer = self.remote.join_answer(join.event, omit_members=partial)
        return await arrival.arrive(
            self.remote.id,
            self.remote.version,
            incoming(join),
            self.remote.parsed(answer["state"]),
            self.remote.parsed(answer["auth_chain"]),
            partial=Partial(self.hydra.name, tuple(answer["servers_in_room"])) if partial else None,
        )

    async def receive(self, *events: BuiltEvent, gap: bool = False) -> None:
        """Events come in; with `gap`, what is before the first is missing and the state is given."""
        received = [incoming(each) for each in events]
        if gap:
            given = self._state_before(events[0])
            unknown = [self.remote.events[each] for each in given]
            known = await self.intake.standing(given)
            outliers = [incoming(each) for each in unknown if each.event.event_id not in known]
            await self.intake.receive_outliers(self.remote.id, self.remote.version, outliers)
            received[0] = Incoming(received[0].event, received[0].json, given)
        verdicts = await self.intake.receive(self.remote.id, received)
        assert {verdict.outcome for verdict in verdicts} == {Outcome.ACCEPTED}, verdicts

    def _state_before(self, built: BuiltEvent) -> list[str]:
        telling = Telling({event_id: each.event for event_id, each in self.remote.events.items()})
        return [each.event_id for each in telling.state_at(built.event)]

    # What servers answer

    def tell(self, server: RemoteServer, *, hiding: Collection[str] = ()) -> Past:
        """Have a server tell of the room, honestly but for what it hides."""
        past = Past(self.remote, hiding)
        past.serve(server)
        return past

    def backfills(self, server: RemoteServer | None = None) -> list[Received]:
        """Requests for history that a server got."""
        return (server or self.hydra).requests("GET", f"{PREFIX}/backfill/")

    # What Alice reads

    async def page(self, user: str = ALICE, **query: Any) -> dict[str, Any]:
        return await self.reading.page(user, self.remote.id, **query)

    async def walk(self, user: str = ALICE, **query: Any) -> list[str]:
        return await self.reading.walk(user, self.remote.id, **query)

    async def context(self, event_id: str, limit: int = 10) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(
            await self.reading.services.context.around(
                Client(ALICE), self.remote.id, event_id, limit, RoomEventFilter()
            )
        )
        return found

    def line(self) -> list[str]:
        """Every event of the room, the newest first."""
        return [built.event.event_id for built in reversed(self.remote.events.values())]


class Past:
    """A server's answers about a room without forks."""

    def __init__(self, remote: RemoteRoom, hiding: Collection[str]) -> None:
        self._remote = remote
        self.hiding = set(hiding)

    def serve(self, server: RemoteServer) -> None:
        """Have the server answer so."""
        server.on("GET", f"{PREFIX}/backfill/{{room}}", self._backfill)
        server.on("GET", f"{PREFIX}/timestamp_to_event/{{room}}", self._by_time)
        telling = Telling(_Events(self))
        telling.serve(server)

    def known(self) -> dict[str, BuiltEvent]:
        return {
            event_id: built for event_id, built in self._remote.events.items() if event_id not in self.hiding
        }

    def _backfill(self, request: Received) -> Any:
        known = self.known()
        wanted = list(request.query["v"])
        found: dict[str, Any] = {}
        limit = min(int(request.query["limit"][0]), 100)
        while wanted and len(found) < limit:
            built = known.get(wanted.pop(0))
            if built is not None and built.event.event_id not in found:
                found[built.event.event_id] = built.event.pdu
                wanted.extend(built.event.prev_event_ids)
        return pdus(found.values())

    def _by_time(self, request: Received) -> Any:
        at, backwards = int(request.query["ts"][0]), request.query["dir"] == ["b"]
        times = [(built.event.origin_server_ts, event_id) for event_id, built in self.known().items()]
        found = (
            max(each for each in times if each[0] <= at)
            if backwards
            else min(each for each in times if each[0] >= at)
        )
        return {"event_id": found[1], "origin_server_ts": found[0]}


class _Events(dict[str, Any]):
    """What a server knows now, as `Telling` reads it."""

    def __init__(self, past: Past) -> None:
        super().__init__()
        self._past = past

    def get(self, key: str, default: Any = None) -> Any:
        built = self._past.known().get(key)
        return default if built is None else built.event

    def __getitem__(self, key: str) -> Any:
        return self._past.known()[key].event

    def __contains__(self, key: object) -> bool:
        return key in self._past.known()

    def values(self) -> Any:
        return [built.event for built in self._past.known().values()]


def pdus(found: Any) -> dict[str, Any]:
    """A transaction as answers to `/backfill` have it."""
    return {"origin": "anybody", "origin_server_ts": 1, "pdus": list(found)}


def event_ids(*events: BuiltEvent) -> list[str]:
    """Their ids."""
    return [each.event.event_id for each in events]


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


__all__ = ["ALICE", "PREFIX", "Client", "Past", "World", "event_ids", "ids", "pdus"]
