# SPDX-License-Identifier: Apache-2.0
"""A process that sends to other servers, on a real database, with a clock of the test's own; and those servers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from federation.client.errors import RemoteError, RemoteFailure, Unreachable
from federation.destinations import Availability
from federation.outbound.building import Outbound, build_outbound, start_availability
from federation.outbound.delivery import Transactions
from federation.outbound.leases import RENEW
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.rooms.engine import Room
from homeserver.rooms.neighbours import Neighbours
from storage.database import Database
from storage.notifications import NotificationStore
from storage.room_hosts import RoomHostStore
from tests.reactor import reactor
from tests.rooms.engine_fixture import Engine

START = 1_700_000_000
PATIENCE = 200.0
"""Seconds after which what was waited for counts as never coming: a busy database takes its time."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """As a server got it."""

    transaction_id: str
    pdus: list[dict[str, Any]]
    edus: list[dict[str, Any]]

    @property
    def bodies(self) -> list[str]:
        return [pdu["content"].get("body", pdu["type"]) for pdu in self.pdus]


@dataclass
class Others:
    """All other servers, as one network that every process of a test sends through."""

    received: dict[str, list[Transaction]] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    tries: dict[str, int] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)
    most_in_flight: int = 0
    held: dict[str, Deferred[None]] = field(default_factory=dict)
    """A transaction to one of these is answered when the Deferred fires."""
    refuse: Callable[[str, Transaction], RemoteFailure | None] = lambda _name, _transaction: None
    processes: list[Process] = field(default_factory=list)

    async def send_transaction(self, destination: str, transaction_id: str, body: bytes) -> Mapping[str, Any]:
        """A transaction arrives, or not."""
        value = json.loads(body)
        assert body == encode_canonical(value), "what is sent is canonical"
        assert value["origin"] == "localhost"
        transaction = Transaction(transaction_id, value["pdus"], value.get("edus", []))
        self.tries[destination] = self.tries.get(destination, 0) + 1
        self.in_flight[destination] = self.in_flight.get(destination, 0) + 1
        assert self.in_flight[destination] == 1, "one transaction at a time"
        self.most_in_flight = max(self.most_in_flight, sum(self.in_flight.values()))
        try:
            held = self.held.get(destination)
            await (deferLater(reactor, 0) if held is None else held)
            if destination in self.away:
                raise Unreachable(destination, "away")
            refusal = self.refuse(destination, transaction)
            if refusal is not None:
                raise refusal
        finally:
            self.in_flight[destination] -= 1
        assert len(transaction.pdus) <= 50
        assert len(transaction.edus) <= 100
        self.received.setdefault(destination, []).append(transaction)
        return {}

    def bodies(self, destination: str) -> list[str]:
        """The bodies of the messages (and types of other events) that a server got, in order."""
        return [body for each in self.received.get(destination, ()) for body in each.bodies]

    def edus(self, destination: str, edu_type: str | None = None) -> list[dict[str, Any]]:
        """The contents of the ephemeral units it got."""
        return [
            edu["content"]
            for each in self.received.get(destination, ())
            for edu in each.edus
            if edu_type in (None, edu["edu_type"])
        ]


def refusal(name: str, status: int) -> RemoteError:
    return RemoteError(name, status, "M_UNKNOWN", "refused", {})


@dataclass
class Process:
    """One process. Its clock stands still unless the test moves it."""

    engine: Engine
    outbound: Outbound
    neighbours: Neighbours
    clock: Clock
    others: Others
    stopped: bool = False

    @classmethod
    async def open(
        cls,
        database: Database,
        others: Others | None = None,
        *,
        alone: bool = False,
        clock: Clock | None = None,
        through: Callable[[Availability], Transactions] | None = None,
        most_bytes: int = 2**23,
    ) -> Process:
        """`through`: what carries transactions, instead of `others`."""
        others = Others() if others is None else others
        engine = await Engine.open(database)
        if clock is None:
            clock = Clock()
            clock.advance(START)
        time, origin = clock, secrets.token_hex(4)

        def now() -> int:
            return int(time.seconds() * 1000)

        def pause() -> Awaitable[None]:
            return deferLater(reactor, 0)

        neighbours = Neighbours(
            server_name="localhost",
            cache=engine.cache,
            user_rooms=engine.user_rooms,
            hosts=RoomHostStore(database),
        )
        availability = await start_availability(clock, database, origin=origin, now=now)
        outbound = build_outbound(
            clock,
            server_name="localhost",
            origin=origin,
            database=database,
            stream=engine.stream,
            cache=engine.cache,
            neighbours=neighbours,
            transactions=others if through is None else through(availability),
            availability=availability,
            notify=NotificationStore(database).notify_all,
            pause=pause,
            now=now,
            alone=alone,
            most_bytes=most_bytes,
        )
        process = cls(engine, outbound, neighbours, clock, others)
        others.processes.append(process)
        await outbound.start()
        return process

    async def stop(self) -> None:
        """A clean stop."""
        self.stopped = True
        stopping = Deferred.fromCoroutine(self.outbound.stop())
        await self.until(lambda: stopping.called)
        await stopping
        await self.outbound.availability.stop()

    def die(self) -> None:
        """Nothing of what this process had in memory is written any more."""
        self.stopped = True
        self.outbound.sender.stop()
        self.outbound.sender.drop(range(64))
        self.outbound.leases._stopped = True
        self.outbound.feed._stopped = True
        for call in list(self.clock.calls):
            call.cancel()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let all processes of the network run until the condition holds; time does not pass."""
        deadline = monotonic() + PATIENCE
        while monotonic() < deadline:
            if condition():
                return
            for process in self.others.processes:
                process.clock.advance(0)
            await deferLater(reactor, 0)
        raise AssertionError("it never came to that")

    async def pass_time(self, seconds: float) -> None:
        """Let time pass in steps at the end of each of which leases are renewed that are due."""
        while seconds > 0:
            step = min(RENEW, seconds)
            for process in self.others.processes:
                if not process.stopped:
                    process.clock.advance(step)
            seconds -= step
            await self.until(lambda: all(p.outbound.leases._renewing is None for p in self.others.processes))

    async def settle(self) -> None:
        """Everything that can be sent now is sent."""
        sender, feed, stream = self.outbound.sender, self.outbound.feed, self.engine.stream

        def quiet() -> bool:
            taken = self.outbound.feed._progress.taken
            return (
                taken >= stream.position
                and not sender._busy
                and not sender._ready
                and not (sender._probes and sender._may_start)
                and feed._running is None
                and not feed._joining
                and self.outbound.leases._renewing is None
            )

        await self.until(quiet)

    async def renew(self) -> None:
        """Keep the books and renew the leases."""
        await self.outbound.leases._renew()

    async def room_with(self, *servers: str, version: str = "11") -> Room:
        """A room of Alice's with a user of each of those servers; what is sent of its beginning was sent."""
        room = await self.engine.new_room(version=version)
        await self.engine.join(room.room_id, *(f"@u:{server}" for server in servers))
        await self.settle()
        self.others.received.clear()
        return room

    async def say(self, room: Room, *bodies: str, sender: str = "@alice:localhost") -> Sequence[str]:
        return [await self.engine.send(room.room_id, sender, body) for body in bodies]
