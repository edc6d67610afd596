# SPDX-License-Identifier: Apache-2.0
"""Rooms and an intake in memory, for tests of what happens before a room makes anything of an event.

The intake takes every event whose previous and authorization events it has, and remembers all it was asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.task import deferLater

from federation.client.availability import AlwaysAvailable
from federation.client.calls import FederationCalls
from federation.client.client import FederationClient
from federation.client.metrics import ClientMetrics
from federation.inbound.backlog import Backlog
from federation.inbound.budgets import Budget, OriginCosts
from federation.inbound.early import EarlyEvents
from federation.inbound.edus import EduDispatcher, EduHandler
from federation.inbound.gaps import GapFiller
from federation.inbound.missing import EventFetcher
from federation.inbound.reading import EventVerifier, PduReader
from federation.inbound.rooms import InboundRooms
from federation.inbound.transactions import InboundTransactions
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import RoomVersion, room_version
from homeserver.protocol.server_acl import ServerAcl
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from storage.database import Database
from storage.events import OUTLIER, REJECTED
from storage.inbound_pdus import InboundPduStore, KnownEvent
from storage.inbound_transactions import InboundTransactionStore
from tests.federation.inbound.forging import KnownKeys
from tests.federation.servers import Network, RemoteServer, make_key
from tests.reactor import reactor

OWN = "own.test"
STANDSTILL = 1000.0
"""The time by which debts are paid off: they stay as they are until a test has looked at them."""


@dataclass
class MemoryHead:
    """A room's head."""

    room_id: str
    version: RoomVersion
    depth: int = 0
    extremities: list[tuple[str, int]] = field(default_factory=list)
    server_acl: ServerAcl = ServerAcl.from_content({"allow": ["*"]})  # noqa: RUF009
    hosts: set[str] = field(default_factory=lambda: {OWN})

    def is_resident(self, server_name: str) -> bool:
        return server_name in self.hosts

    def other_hosts(self, own: str) -> Collection[str]:
        return self.hosts - {own}


@dataclass
class MemoryRoom:
    """A room as a cache would hold it."""

    head: MemoryHead


class MemoryIntake:
    """What stands in for rooms, intake and what is stored."""

    def __init__(self) -> None:
        self.rooms: dict[str, MemoryRoom] = {}
        self.flags: dict[str, int] = {}
        self.events: dict[str, Event] = {}
        self.received: list[list[str]] = []
        self.states: dict[str, Collection[str]] = {}
        self.reject: set[str] = set()
        self.begins = 0
        self.before: Callable[[str, Sequence[Incoming]], Awaitable[None]] | None = None

    def room(
        self, room_id: str, version: str = "11", *hosts: str, acl: Mapping[str, Any] | None = None
    ) -> None:
        """A room this server is in."""
        head = MemoryHead(room_id, room_version(version), hosts={OWN, *hosts})
        if acl is not None:
            head.server_acl = ServerAcl.from_content(acl)
        self.rooms[room_id] = MemoryRoom(head)

    def put(self, *events: Event, flags: int = 0) -> None:
        """Have events stored."""
        for event in events:
            self.flags[event.event_id] = flags
            self.events[event.event_id] = event

    async def get(self, room_id: str) -> MemoryRoom | None:
        return self.rooms.get(room_id)

    async def get_many(self, *, room_ids: Sequence[str]) -> dict[str, MemoryRoom]:
        return {room_id: self.rooms[room_id] for room_id in room_ids if room_id in self.rooms}

    async def known(self, room_id: str, event_ids: Sequence[str]) -> dict[str, KnownEvent]:
        found = {}
        for event_id in event_ids:
            event = self.events.get(event_id)
            if event is not None and event.room_id == room_id:
                found[event_id] = KnownEvent(self.flags[event_id], event.type, event.state_key)
        return found

    async def history_begins(self, room_id: str, own_server: str) -> int:
        return self.begins

    async def receive(self, room_id: str, events: Sequence[Incoming]) -> list[Verdict]:
        self.received.append([each.event.event_id for each in events])
        if self.before is not None:
            await self.before(room_id, events)
        return [self._verdict(each, outlier=False) for each in events]

    async def receive_outliers(
        self, room_id: str, version: RoomVersion, events: Sequence[Incoming]
    ) -> list[Verdict]:
        return [self._verdict(each, outlier=True) for each in events]

    def _verdict(self, incoming: Incoming, *, outlier: bool) -> Verdict:
        event = incoming.event
        if event.event_id in self.flags and (outlier or not self.flags[event.event_id] & OUTLIER):
            return Verdict(event.event_id, Outcome.KNOWN)
        auth = [name for name in event.auth_event_ids if name not in self.flags]
        prev: list[str] = []
        if not outlier and incoming.state_before is None:
            prev = [name for name in event.prev_event_ids if self.flags.get(name, OUTLIER) & OUTLIER]
        if auth or prev:
            return Verdict(event.event_id, Outcome.MISSING, missing_prev=prev, missing_auth=auth)
        rejected = event.event_id in self.reject or any(
            self.flags[name] & REJECTED for name in event.auth_event_ids
        )
        self.put(event, flags=(OUTLIER if outlier else 0) | (REJECTED if rejected else 0))
        if incoming.state_before is not None:
            self.states[event.event_id] = incoming.state_before
        if not outlier:
            head = self.rooms[event.room_id].head
            head.depth = max(head.depth, event.depth)
            head.extremities = [(event.event_id, 1)]
        return Verdict(event.event_id, Outcome.REJECTED if rejected else Outcome.ACCEPTED)


class NoArrivals:
    """Nobody joins anything."""

    def under_way(self, room_id: str) -> Awaitable[object] | None:
        return None

    def version(self, room_id: str) -> RoomVersion | None:
        return None


class NoStrays:
    """Nobody waits at a door."""

    async def stray(self, origin: str, incoming: Incoming) -> bool:
        return False


class Inbound:
    """Everything between a transaction and the intake, on a real database and servers in memory."""

    def __init__(
        self,
        database: Database,
        *servers: RemoteServer,
        intake: Any = None,
        handlers: Mapping[str, EduHandler] | None = None,
        worker: str = "one",
        new_budget: Callable[[], Budget] | None = None,
        arrivals: Any = None,
        strays: Any = None,
        verifier: EventVerifier | None = None,
    ) -> None:
        self.intake: MemoryIntake = intake or MemoryIntake()
        self.network = Network(*servers)
        self.budgets: list[Budget] = []
        self.costs = OriginCosts(lambda: STANDSTILL)
        self.store = InboundPduStore(database)
        client = FederationClient(
            server_name=OWN,
            signing_key=make_key(OWN),
            wire=self.network,
            availability=AlwaysAvailable(),
            metrics=ClientMetrics(),
        )
        self.reader = PduReader(verifier or KnownKeys(*servers), breathe=lambda: deferLater(reactor, 0))

        def budget() -> Budget:
            self.budgets.append(new_budget() if new_budget else Budget(reactor.seconds))
            return self.budgets[-1]

        self.fetcher = EventFetcher(
            calls=FederationCalls(client),
            reader=self.reader,
            intake=self.intake,
            known=self.intake,
            new_budget=budget,
        )
        self.early = EarlyEvents(
            reactor,
            store=self.store,
            rooms=self.intake,
            reader=self.reader,
            arrivals=arrivals or NoArrivals(),
            strays=strays or NoStrays(),
            server_name=OWN,
        )
        self.backlog = Backlog(
            reactor,
            store=self.store,
            filler=GapFiller(
                fetcher=self.fetcher,
                intake=self.intake,
                known=self.intake,
                waiting=self.store,
                server_name=OWN,
            ),
            early=self.early,
            rooms=self.intake,
            costs=self.costs,
            new_budget=budget,
            server_name=OWN,
            worker=worker,
        )
        self.rooms = InboundRooms(
            reactor,
            rooms=self.intake,
            reader=self.reader,
            intake=self.intake,
            backlog=self.backlog,
            arrivals=arrivals or NoArrivals(),
            strays=strays or NoStrays(),
            server_name=OWN,
        )
        self.transactions = InboundTransactions(
            store=InboundTransactionStore(database),
            rooms=self.rooms,
            edus=EduDispatcher(reactor, handlers=handlers or {}, rooms=self.intake),
        )
