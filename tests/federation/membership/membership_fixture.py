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
from federation.inbound.reading import PduReader
from federation.keys.keyring import Keyring
from federation.keys.own import OwnKeys
from federation.membership.inviting import RemoteInviting
from federation.membership.joining import RemoteJoining
from federation.membership.knocking import RemoteKnocking
from federation.membership.leaving import RemoteLeaving
from federation.membership.remote import FederatedRooms
from federation.membership.templates import Templates
from homeserver.protocol.events import Event
from homeserver.rooms.arrival import OutOfBand, RoomArrival
from homeserver.rooms.engine import Plan
from homeserver.rooms.engine.working import Signer, WorkingRoom
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from storage.arrivals import ArrivalStore
from storage.database import Database
from storage.memberships import MembershipStore
from storage.server_keys import ServerKeyStore
from tests.federation.servers import Network, RemoteServer, now_ms
from tests.reactor import reactor
from tests.rooms.arrival.arrival_fixture import KEY, OURS, pause
from tests.rooms.engine_fixture import Engine
from tests.rooms.services_fixture import House
from tests.sync.sync_fixture import Client, Process


@dataclass(frozen=True, slots=True)
class Built:
    """An event that is in no room."""

    event: Event
    json: str


@dataclass(slots=True)
class RecordingIntake:
    """Builds events as the room's writer would, and remembers what it is given."""

    engine: Engine
    received: list[tuple[Incoming, bool]] = field(default_factory=list)
    outcome: Outcome = Outcome.ACCEPTED

    async def prepare(self, room_id: str, plan: Plan, users: Sequence[str] = ()) -> Built:
        room = await self.engine.cache.get(room_id)
        assert room is not None
        await self.engine.engine.load_members([(room.head, user) for user in users])
        ends = [ordinal for _, ordinal in room.head.extremities]
        await self.engine.member_events.load(room.key, room_id, room.head.version, ends)
        working = WorkingRoom(
            room.head,
            signer=Signer(OURS, KEY),
            member_events=self.engine.member_events,
            loaded={},
            now=now_ms,
        )
        (draft,) = plan(working.head)
        entry = working.append(draft)
        return Built(entry.event, entry.stored.pdu)

    async def receive(
        self, room_id: str, events: Sequence[Incoming], *, outbound: bool = False, users: Sequence[str] = ()
    ) -> list[Verdict]:
        self.received.extend((event, outbound) for event in events)
        return [Verdict(event.event.event_id, self.outcome) for event in events]


class Federation:
    """One process and the servers it can reach."""

    def __init__(self, database: Database, engine: Engine, servers: Sequence[RemoteServer]) -> None:
        self.engine = engine
        self.network = Network(*servers)
        self.us = RemoteServer(OURS, key=KEY)
        self.intake = RecordingIntake(engine)
        self.process = Process.on(engine)
        self.filled_in_part = 0
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
        store = ArrivalStore(database)
        self.arrival = RoomArrival(
            cache=engine.cache,
            stream=engine.stream,
            committer=engine.committer,
            store=store,
            events=engine.events,
            intake=self.intake,
            server_name=OURS,
            pause=pause,
        )
        self.out_of_band = OutOfBand(
            cache=engine.cache,
            stream=engine.stream,
            committer=engine.committer,
            store=store,
            events=engine.events,
            memberships=MembershipStore(database),
            signer=Signer(OURS, KEY),
            now=now_ms,
        )
        self.remote = self._remote()
        self.house: House

    def _remote(self) -> FederatedRooms:
        templates = Templates(signer=Signer(OURS, KEY), now=now_ms)
        self.joining = RemoteJoining(
            calls=self.calls,
            reader=self.reader,
            arrival=self.arrival,
            templates=templates,
            server_name=OURS,
            clock=reactor.seconds,
            entered_in_part=self._entered_in_part,
        )
        return FederatedRooms(
            joining=self.joining,
            knocking=RemoteKnocking(
                calls=self.calls, out_of_band=self.out_of_band, templates=templates, server_name=OURS
            ),
            leaving=RemoteLeaving(
                calls=self.calls,
                out_of_band=self.out_of_band,
                templates=templates,
                server_name=OURS,
                scheduler=reactor,
            ),
            inviting=RemoteInviting(
                calls=self.calls, intake=self.intake, cache=self.engine.cache, members=self.engine.gate
            ),
            calls=self.calls,
        )

    def _entered_in_part(self) -> None:
        self.filled_in_part += 1

    @classmethod
    async def open(cls, database: Database, *servers: RemoteServer) -> Federation:
        engine = await Engine.open(database)
        federation = cls(database, engine, servers)
        federation.house = await House.open(database, engine=engine, remote=federation.remote)
        return federation

    def client(self, user_id: str, **options: Any) -> Client:
        return self.process.client(user_id, **options)
