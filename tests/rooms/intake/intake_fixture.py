# SPDX-License-Identifier: Apache-2.0
"""A room engine with an intake, as a process has them, and ways to look at what the intake wrote."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.task import deferLater

from homeserver.rooms.arrival.outliers import Outliers
from homeserver.rooms.engine import Draft, Room
from homeserver.rooms.engine.head import StateKey
from homeserver.rooms.engine.recommending import PolicyServers
from homeserver.rooms.engine.snapshots import state_at
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from homeserver.rooms.intake.knowledge import States
from homeserver.rooms.intake.room_intake import RoomIntake
from storage.arrivals import ArrivalStore
from storage.database import Database
from storage.received import ReceivedStore
from storage.room_history import RoomHistoryStore
from storage.state import StateStore
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, Engine, member
from tests.rooms.intake.dag import Dag, clock

DAVE, ERIN, FRED = "@dave:one.example", "@erin:two.example", "@fred:three.example"


@dataclass(frozen=True, slots=True)
class Process:
    """One process's engine and intake."""

    engine: Engine
    intake: RoomIntake

    @classmethod
    async def open(cls, database: Database, policy_servers: PolicyServers | None = None) -> Process:
        return cls.on(await Engine.open(database, clock=clock, policy_servers=policy_servers))

    @classmethod
    def on(cls, engine: Engine) -> Process:
        """With that engine."""
        database = engine.database
        states = States(RoomHistoryStore(database))
        engine.stream.subscribe(states)
        store = ArrivalStore(database)
        intake = RoomIntake(
            engine=engine.engine,
            events=engine.events,
            received=ReceivedStore(database, engine.stream.origin),
            states=states,
            outliers=Outliers(store=store, events=engine.events, pause=lambda: deferLater(reactor, 0)),
            stubs=store,
        )
        return cls(engine, intake)

    async def room_with(self, *users: str, version: str = "11", power: int = 50) -> tuple[Room, Dag]:
        """A public room of Alice's in which users of other servers are, with power to change state."""
        room = await self.engine.new_room(version=version)
        levels = {"users": dict.fromkeys(users, power), "state_default": 50}
        if version != "12":
            levels["users"][ALICE] = 100  # type: ignore[index]
        if users:
            await self.engine.engine.write(
                room.room_id, lambda _head: [Draft("m.room.power_levels", ALICE, levels, "")], users=(ALICE,)
            )
        dag = await Dag.of(self.engine.database, room)
        for user in users:
            joined = dag.join(user, prev=ends(room))
            await self.accept(room, joined)
        return room, dag

    async def accept(self, room: Room, *events: Incoming, outbound: bool = False) -> None:
        """Receive events that must be accepted."""
        verdicts = await self.intake.receive(room.room_id, events, outbound=outbound)
        assert [v.outcome for v in verdicts] == [Outcome.ACCEPTED] * len(events), verdicts

    async def receive(self, room: Room, *events: Incoming) -> list[Verdict]:
        return await self.intake.receive(room.room_id, events)

    async def say(self, room: Room, body: str) -> str:
        return await self.engine.send(room.room_id, ALICE, body)

    # What is stored.

    async def current(self, room: Room) -> dict[StateKey, str]:
        """The table `current_state`."""
        rows = await self.engine.database.fetch(
            "test",
            """SELECT c.type, c.state_key, e.event_id FROM current_state c JOIN events e USING (room, ordinal)
            WHERE c.room = %s""",
            (room.key,),
        )
        return {(event_type, state_key): event_id for event_type, state_key, event_id in rows}

    async def state_of(self, room: Room, snapshot: int | None) -> dict[StateKey, str]:
        """A snapshot."""
        if not snapshot:
            return {}
        chain = await StateStore(self.engine.database).chain(room.key, snapshot)
        stored = await self.engine.events.by_ordinals((room.key, ordinal) for ordinal in state_at(chain))
        found = {(e.type, e.state_key or ""): e.event_id for e in stored}
        assert len(found) == len(stored), "two events for one key"
        return found

    async def check(self, room: Room, dag: Dag) -> None:
        """What memory and the tables say of the room's present agrees with each other and with the reference."""
        fresh = await Process.open(self.engine.database)
        for process in (self, fresh):
            loaded = await process.engine.cache.get(room.room_id)
            assert loaded is not None
            head = loaded.head
            expected = dag.resolved(event_id for event_id, _ in head.extremities)
            assert await process.current(room) == expected
            assert await process.state_of(room, head.snapshot) == expected
            held = {key: entry.stored.event_id for key, entry in head.state.items()}
            ordinals = [(room.key, m.ordinal) for m in head.members.values()]
            for stored in await process.engine.events.by_ordinals(ordinals):
                held["m.room.member", stored.state_key or ""] = stored.event_id
                membership = head.members[stored.state_key or ""].membership
                assert membership == dag.events[stored.event_id].content["membership"]
            assert held == expected
            joined = {user for user, m in head.members.items() if m.membership == "join"}
            assert head.joined_count == len(joined)
            hosts: dict[str, int] = {}
            for user in joined:
                hosts[user.partition(":")[2]] = hosts.get(user.partition(":")[2], 0) + 1
            assert dict(head.hosts) == hosts
        here = await self.engine.cache.get(room.room_id)
        there = await fresh.engine.cache.get(room.room_id)
        assert here is not None and there is not None
        for name in ("head", "depth", "extremities", "next_ordinal", "snapshot", "next_snapshot", "position"):
            assert getattr(here.head, name) == getattr(there.head, name), name
        assert here.head.snapshot_weight == there.head.snapshot_weight
        assert dict(here.head.members) == dict(there.head.members)

    async def check_states(self, room: Room, dag: Dag) -> None:
        """The state before each event that has a place, and the one after it, are those of the reference."""
        rows = await self.engine.database.fetch(
            "test", "SELECT event_id FROM events WHERE room = %s", (room.key,)
        )
        found = await self.engine.events.by_ids([row[0] for row in rows])
        for event_id, stored in found.items():
            if stored.snapshot is not None:
                assert await self.state_of(room, stored.snapshot) == dag.before(dag.events[event_id])
                assert await self.state_of(room, stored.snapshot_after) == dag.after[event_id]


def ends(room: Room) -> list[str]:
    """The ids of a room's extremities."""
    return [event_id for event_id, _ in room.head.extremities]


__all__ = ["ALICE", "DAVE", "ERIN", "FRED", "Process", "ends", "member"]
