# SPDX-License-Identifier: Apache-2.0
"""The room services of one process, federating with servers in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from federation.client.availability import AlwaysAvailable
from federation.client.calls import FederationCalls
from federation.client.client import FederationClient
from federation.client.metrics import ClientMetrics
from federation.inbound.assembly import new_fetcher
from federation.inbound.reading import PduReader
from federation.keys.keyring import Keyring
from federation.keys.own import OwnKeys
from federation.membership.assembly import RemoteMembership
from homeserver.errors import RemoteServerFailed
from homeserver.rooms.arrival.outliers import Outliers
from homeserver.rooms.engine import Plan
from homeserver.rooms.engine.working import Signer
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from homeserver.rooms.intake.knowledge import States
from homeserver.rooms.intake.room_intake import Prepared, RoomIntake
from storage.arrivals import ArrivalStore
from storage.database import Database
from storage.notifications import NotificationStore
from storage.received import ReceivedStore
from storage.room_history import RoomHistoryStore
from storage.server_keys import ServerKeyStore
from tests.federation.servers import Network, RemoteServer, now_ms
from tests.reactor import reactor
from tests.rooms.arrival.arrival_fixture import KEY, OURS, pause
from tests.rooms.engine_fixture import Engine
from tests.rooms.services_fixture import House
from tests.sync.sync_fixture import Client, Process


@dataclass(slots=True)
class RecordingIntake:
    """The intake, and what it was given."""

    real: RoomIntake
    received: list[tuple[Incoming, bool]] = field(default_factory=list)
    outcome: Outcome | None = None
    """What it says became of events instead of taking them."""

    async def prepare(
        self, room_id: str, plan: Plan, users: Sequence[str] = (), *, recommended: bool = False
    ) -> Prepared:
        return await self.real.prepare(room_id, plan, users, recommended=recommended)

    async def receive(
        self, room_id: str, events: Sequence[Incoming], *, outbound: bool = False, users: Sequence[str] = ()
    ) -> list[Verdict]:
        self.received.extend((event, outbound) for event in events)
        if self.outcome is not None:
            return [Verdict(event.event.event_id, self.outcome) for event in events]
        return await self.real.receive(room_id, events, outbound=outbound, users=users)


def _intake(database: Database, engine: Engine) -> RoomIntake:
    states, store = States(RoomHistoryStore(database)), ArrivalStore(database)
    engine.stream.subscribe(states)
    return RoomIntake(
        engine=engine.engine,
        events=engine.events,
        received=ReceivedStore(database, engine.stream.origin),
        states=states,
        outliers=Outliers(store=store, events=engine.events, pause=pause),
        stubs=store,
    )


@dataclass(slots=True)
class Others:
    """Whether there are other processes."""

    has_others: bool = False


class Federation:
    """One process and the servers it can reach."""

    def __init__(self, database: Database, engine: Engine, servers: Sequence[RemoteServer]) -> None:
        self.others = Others()
        self.engine = engine
        self.network = Network(*servers)
        self.us = RemoteServer(OURS, key=KEY)
        self.intake = RecordingIntake(_intake(database, engine))
        self.process = Process.on(engine)
        client = FederationClient(
            server_name=OURS,
            signing_key=KEY,
            wire=self.network,
            availability=AlwaysAvailable(),
            metrics=ClientMetrics(),
        )
        self.calls = FederationCalls(client)
        keyring = Keyring(
            own=OwnKeys(server_name=OURS, signing_key=KEY, now=now_ms),
            store=ServerKeyStore(database),
            wire=self.network,
            now=now_ms,
        )
        self.reader = PduReader(keyring, breathe=pause)
        self.entered: list[tuple[str, int]] = []
        membership = RemoteMembership.build(
            reactor,
            engine,
            intake=self.intake,
            calls=self.calls,
            reader=self.reader,
            fetcher=new_fetcher(
                reactor, database=database, calls=self.calls, reader=self.reader, intake=self.intake.real
            ),
            signer=Signer(OURS, KEY),
            acquaint=lambda server: keyring.keys_for([server]),
            entered=lambda user_id, room: self.entered.append((user_id, room)),
            notify=NotificationStore(database).notify_all,
            others=self.others,
            now=now_ms,
            pause=pause,
        )
        self.membership = membership
        self.remote = membership.rooms
        self.joining = membership.joining
        self.out_of_band = membership.out_of_band
        self.filler = membership.filler
        self.house: House

    @classmethod
    async def open(
        cls, database: Database, *servers: RemoteServer, engine: Engine | None = None
    ) -> Federation:
        engine = engine or await Engine.open(database)
        federation = cls(database, engine, servers)
        federation.house = await House.open(database, engine=engine, remote=federation.remote)
        return federation

    def client(self, user_id: str, **options: Any) -> Client:
        return self.process.client(user_id, **options)

    async def whole(self, room_id: str) -> None:
        """Wait until the room's members are known, for longer than users do."""
        while True:
            try:
                await self.house.whole.get(room_id)
            except RemoteServerFailed:
                continue
            return
