# SPDX-License-Identifier: Apache-2.0
"""Arrivals on a real engine, sync and database; other servers' answers are made, not asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.task import deferLater

from homeserver.protocol.building import BuiltEvent
from homeserver.protocol.signing import SigningKey
from homeserver.rooms.arrival import OutOfBand, Partial, RoomArrival, RoomCompletion
from homeserver.rooms.arrival.outliers import Outliers
from homeserver.rooms.engine import Room
from homeserver.rooms.engine.working import Signer
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from storage.arrivals import ArrivalStore
from storage.database import Database
from storage.memberships import MembershipStore
from storage.partial_rooms import PartialRoomStore
from tests.federation.servers import RemoteServer
from tests.reactor import reactor
from tests.rooms.arrival.remote_room import RemoteRoom, incoming
from tests.sync.sync_fixture import Client, Process

OURS = "localhost"
KEY = SigningKey.from_seed("ed25519:test", bytes(32))


async def pause() -> None:
    """Let others have the reactor."""
    await deferLater(reactor, 0)


@dataclass(slots=True)
class RecordingIntake:
    """Takes whatever it is given, and remembers it."""

    received: list[Incoming] = field(default_factory=list)

    async def receive(
        self, room_id: str, events: Sequence[Incoming], *, outbound: bool = False, users: Sequence[str] = ()
    ) -> list[Verdict]:
        self.received.extend(events)
        return [Verdict(event.event.event_id, Outcome.ACCEPTED) for event in events]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """One process's worth."""

    process: Process
    arrival: RoomArrival
    out_of_band: OutOfBand
    intake: RecordingIntake
    outliers: Outliers
    partial: PartialRoomStore
    completion: RoomCompletion
    us: RemoteServer
    """This server, to sign joins as it would."""

    @classmethod
    async def open(cls, database: Database) -> Arrivals:
        process = await Process.open(database)
        engine, intake, store = process.engine, RecordingIntake(), ArrivalStore(database)
        arrival = RoomArrival(
            cache=engine.cache,
            stream=engine.stream,
            committer=engine.committer,
            store=store,
            events=engine.events,
            intake=intake,
            server_name=OURS,
            pause=pause,
        )
        out_of_band = OutOfBand(
            cache=engine.cache,
            stream=engine.stream,
            committer=engine.committer,
            store=store,
            events=engine.events,
            memberships=MembershipStore(database),
            signer=Signer(OURS, KEY),
            now=lambda: 1_700_000_000_000,
        )
        partial = PartialRoomStore(database)
        completion = RoomCompletion(
            cache=engine.cache,
            stream=engine.stream,
            committer=engine.committer,
            store=store,
            partial=partial,
            events=engine.events,
            server_name=OURS,
            pause=pause,
        )
        outliers = Outliers(store=store, events=engine.events, pause=pause)
        us = RemoteServer(OURS, key=KEY)
        return cls(process, arrival, out_of_band, intake, outliers, partial, completion, us)

    def client(self, user_id: str, **options: Any) -> Client:
        return self.process.client(user_id, **options)

    async def join(self, remote: RemoteRoom, user_id: str, *, omit_members: bool = False) -> Room:
        """Bring a user into a room by an honest answer."""
        event, answer = self.asked(remote, user_id, omit_members=omit_members)
        return await self.enter(remote, event, answer)

    def asked(
        self, remote: RemoteRoom, user_id: str, *, omit_members: bool = False
    ) -> tuple[Incoming, dict[str, Any]]:
        """The join and the answer to it."""
        built = remote.event("m.room.member", {"membership": "join"}, user_id, sender=user_id, by=self.us)
        return incoming(built), remote.join_answer(built.event, omit_members=omit_members)

    async def enter(self, remote: RemoteRoom, event: Incoming, answer: dict[str, Any]) -> Room:
        """Arrive by an answer."""
        partial = None
        if answer.get("members_omitted"):
            partial = Partial(remote.server.name, answer["servers_in_room"])
        return await self.arrival.arrive(
            remote.id,
            remote.version,
            event,
            remote.parsed(answer["state"]),
            remote.parsed(answer["auth_chain"]),
            partial=partial,
        )

    async def fill(self, remote: RemoteRoom, before: Sequence[BuiltEvent]) -> None:
        """Complete a room that was entered in part, the state before the join being `before`."""
        entered = await self.partial.take(60)
        assert entered is not None
        assert entered.room_id == remote.id
        events = [incoming(built) for built in (*before, *remote.auth_chain(before))]
        await self.outliers.take_in(entered.room, remote.id, remote.version, events, visibility=1)
        await self.completion.complete(entered, [built.event.event_id for built in before])
