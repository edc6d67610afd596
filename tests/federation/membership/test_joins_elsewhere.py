# SPDX-License-Identifier: Apache-2.0
"""While one process joins a room, its events come to another: they wait there, and are taken in when it is joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from federation.inbound.assembly import Inbound, new_fetcher
from federation.inbound.budgets import OriginCosts
from federation.inbound.strays import EndsOfInvitations
from federation.membership.joins_elsewhere import ANSWERS, LASTS, MOST_ROOMS, REPEAT, JoinsElsewhere
from homeserver.errors import RemoteServerFailed
from homeserver.protocol.building import BuiltEvent
from homeserver.protocol.room_versions import room_version
from storage.database import Database
from storage.notifications import NotificationStore
from tests.federation.membership.membership_fixture import Federation, Others
from tests.federation.membership.resident import Resident
from tests.federation.servers import RemoteServer
from tests.reactor import reactor
from tests.rooms.arrival.arrival_fixture import OURS
from tests.rooms.arrival.remote_room import Json, RemoteRoom
from tests.rooms.engine_fixture import ALICE, Engine
from tests.rooms.services_fixture import User, alice, bob

ROOM = "!room:hydra.test"
VERSION = room_version("11")


def fired(deferred: Deferred[Any]) -> bool:
    """Whether it has."""
    return deferred.called


class HeldBack(RemoteServer):
    """Lets servers in at once, and answers so when it is told to."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.let_in: Deferred[None] = Deferred()
        self.answering: Deferred[None] = Deferred()

    async def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Any]:
        answer = await super().answer(method, target, headers, body)
        if "/send_join/" in target or "/send_knock/" in target:
            self.let_in.callback(None)
            await self.answering
        return answer


def inbound_of(database: Database, federation: Federation) -> Inbound:
    """The door of a process for events."""
    return Inbound.build(
        reactor,
        database=database,
        rooms=federation.engine.cache,
        intake=federation.intake.real,
        reader=federation.reader,
        fetcher=new_fetcher(
            reactor,
            database=database,
            calls=federation.calls,
            reader=federation.reader,
            intake=federation.intake.real,
        ),
        arrivals=federation.joining,
        strays=EndsOfInvitations(
            cache=federation.engine.cache,
            events=federation.engine.events,
            doorway=federation.out_of_band,
            server_name=OURS,
        ),
        costs=OriginCosts(reactor.seconds),
        edu_handlers={},
        server_name=OURS,
        worker=federation.engine.stream.origin,
    )


class Processes:
    """Two of one server: the first joins, the second hears of it as requests do, and has the door for events."""

    def __init__(self, database: Database, hydra: HeldBack, joining: Federation, other: Federation) -> None:
        self.database = database
        self.hydra = hydra
        self.joining = joining
        self.other = other
        joining.others.has_others = other.others.has_others = True
        self.inbound = inbound_of(database, other)
        self._heard: list[Deferred[None]] = []

    @classmethod
    async def open(cls, database: Database, hydra: HeldBack) -> Processes:
        joining, other = [
            await Federation.open(database, hydra, engine=await Engine.open(database, tells=True))
            for _ in range(2)
        ]
        processes = cls(database, hydra, joining, other)
        await database.listen("heard", lambda _: processes._heard.pop().callback(None))
        for federation in (joining, other):  # nobody is there to answer what they ask
            federation.others.has_others = False
            await federation.membership.start()
            federation.others.has_others = True
        return processes

    async def heard(self) -> None:
        """All that was told before was heard."""
        done: Deferred[None] = Deferred()
        self._heard.append(done)
        await NotificationStore(self.database).notify("heard", "")
        await done

    async def waiting(self, room_id: str) -> None:
        """Events wait in the second."""
        while not self.other.membership._elsewhere._theirs[room_id].waiting:
            await self.database.fetch("wait", "SELECT 1")

    async def join(self, room_id: str, user: User = alice) -> Deferred[Any]:
        """Have the first join, until it was let in; the end of it."""
        join = Deferred.fromCoroutine(
            self.joining.house.rooms.joining.join(user, room_id, servers=["hydra.test"])
        )
        await self.hydra.let_in
        await self.heard()
        return join

    async def send(self, *events: BuiltEvent) -> Json:
        """To the second; what it answers."""
        return await send(self.inbound, *events)

    async def stop(self) -> None:
        await self.inbound.stop()
        for federation in (self.joining, self.other):
            await federation.membership.stop()


async def send(inbound: Inbound, *events: BuiltEvent, txn_id: str = "txn") -> Json:
    """What hydra is answered."""
    pdus = [each.event.pdu for each in events]
    body = {"origin": "hydra.test", "origin_server_ts": 1, "pdus": pdus}
    answer: Json = orjson.loads(await inbound.transactions.receive("hydra.test", txn_id, body))["pdus"]
    return answer


@pytest.mark.parametrize("version", ["1", "12"])
async def test_events_wait_for_a_join_of_another_process(database: Database, version: str) -> None:
    """They come before the answer to the join, and are the room's."""
    hydra = HeldBack("hydra.test")
    room = RemoteRoom(hydra, version)
    Resident(hydra, room)
    processes = await Processes.open(database, hydra)
    join = await processes.join(room.id)
    event = room.message("welcome")
    sending = Deferred.fromCoroutine(processes.send(event))
    await processes.waiting(room.id)
    hydra.answering.callback(None)
    await join
    assert await sending == {event.event.event_id: {}}
    client = processes.other.client(ALICE)
    await client.sync()
    assert client.bodies(room.id)[-1:] == ["welcome"]
    assert processes.other.joining.under_way(room.id) is None
    await processes.stop()


async def test_events_of_a_join_that_fails_are_refused(database: Database) -> None:
    """They waited for nothing."""
    hydra = HeldBack("hydra.test")
    room = RemoteRoom(hydra, "1")
    resident = Resident(hydra, room)
    resident.twist_answer = lambda answer: answer.update(state=[], auth_chain=[])
    processes = await Processes.open(database, hydra)
    join = await processes.join(room.id)
    event = room.message()
    sending = Deferred.fromCoroutine(processes.send(event))
    await processes.waiting(room.id)
    hydra.answering.callback(None)
    with pytest.raises(RemoteServerFailed):
        await join
    assert await sending == {event.event.event_id: {"error": "This server is not in the room"}}
    await processes.stop()


async def test_nothing_is_sent_before_the_others_know(database: Database) -> None:
    """If they can't be told, nobody is asked to let this server in."""
    hydra = RemoteServer("hydra.test")
    room = RemoteRoom(hydra)
    resident = Resident(hydra, room)
    federation = await Federation.open(database, hydra)
    federation.others.has_others = True
    order: list[str] = []

    class Broken(Exception):
        pass

    async def notify(_channel: str, _payloads: Sequence[str]) -> None:
        order.append("told")
        raise Broken

    federation.membership._elsewhere._notify = notify
    with pytest.raises(Broken):
        await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
    assert order[:1] == ["told"]
    assert not resident.taken


async def test_a_room_that_is_live_holds_nothing_up(database: Database) -> None:
    """Where another server has to vouch for a user, events of the room go on coming in meanwhile."""
    hydra = HeldBack("hydra.test")
    processes = await Processes.open(database, hydra)
    house = processes.joining.house
    elsewhere = await house.create(preset="public_chat")
    await house.rooms.joining.join(bob, elsewhere)
    rules = {"allow": [{"type": "m.room_membership", "room_id": elsewhere}]}
    room = RemoteRoom(hydra, "10", join_rule="restricted", rules=rules)
    room.send("m.room.power_levels", {"users": {hydra.user(): 100}, "invite": 50}, "")
    resident = Resident(hydra, room)
    resident.vouching = True
    hydra.answering.callback(None)
    await (await processes.join(room.id))
    while processes.other.joining.under_way(room.id) is not None:
        await database.fetch("wait", "SELECT 1")
    hydra.let_in, hydra.answering = Deferred(), Deferred()
    join = await processes.join(room.id, bob)
    assert processes.other.joining.under_way(room.id) is None
    hydra.answering.callback(None)
    await join
    await processes.stop()


async def test_events_of_a_room_that_is_live_wait_for_no_join(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for one that may be under way, where a new process does not know yet, nor for one that is."""
    hydra = HeldBack("hydra.test")
    room = RemoteRoom(hydra)
    Resident(hydra, room)
    processes = await Processes.open(database, hydra)
    hydra.answering.callback(None)
    await (await processes.join(room.id))
    await processes.heard()
    waited_for: list[str] = []
    monkeypatch.setattr(processes.other.joining, "under_way", waited_for.append)
    event = room.message()
    assert await processes.send(event) == {event.event.event_id: {}}
    assert waited_for == []
    await processes.stop()


# What is said and heard


@dataclass
class Told:
    """The channel of some processes: what is said on it, which all of them hear."""

    clock: Clock = field(default_factory=Clock)
    said: list[Json] = field(default_factory=list)
    processes: list[JoinsElsewhere] = field(default_factory=list)
    others: Others = field(default_factory=lambda: Others(has_others=True))

    def process(self, name: str) -> JoinsElsewhere:
        made = JoinsElsewhere(origin=name, notify=self.notify, others=self.others, scheduler=self.clock)
        self.processes.append(made)
        return made

    async def notify(self, _channel: str, payloads: Sequence[str]) -> None:
        for payload in payloads:
            self.said.append(orjson.loads(payload))
            for process in self.processes:
                process.heard(payload)


async def test_a_process_by_itself_says_nothing() -> None:
    """Neither of its joins nor of their end, nor does it wait for anybody but itself."""
    told = Told(others=Others(has_others=False))
    process = told.process("a")
    await process.ask()
    assert process.under_way("!other:hydra.test") is None
    await process.tell(ROOM, VERSION, "join")
    waiting = process.under_way(ROOM)
    assert waiting is not None
    told.clock.advance(REPEAT)
    assert not fired(waiting)
    process.end(ROOM, "join")
    assert fired(waiting)
    assert process.under_way(ROOM) is None
    assert not told.said
    assert not told.clock.getDelayedCalls()


async def test_whoever_comes_later_is_told() -> None:
    """At once if they ask, which they do; until then it is not known of any room that nobody joins it."""
    told = Told()
    first = told.process("a")
    await first.tell(ROOM, VERSION, "join")
    second = told.process("b")
    other = second.under_way("!other:hydra.test")
    assert other is None
    await second.ask()
    one, other = second.under_way(ROOM), second.under_way("!other:hydra.test")
    assert one is not None
    assert other is not None
    told.clock.advance(ANSWERS)
    assert fired(other)
    assert not fired(one)
    assert second.under_way("!other:hydra.test") is None
    first.end(ROOM, "join")
    assert fired(one)
    assert second.under_way(ROOM) is None
    assert not told.clock.getDelayedCalls()


async def test_what_was_missed_is_asked_for() -> None:
    """Who asked for a room before the answer waits for its join."""
    told = Told()
    first, second = told.process("a"), told.process("b")
    told.processes.remove(first)
    told.processes.remove(second)
    await first.tell(ROOM, VERSION, "join")
    told.processes += [second]
    second.missed()
    waiting = second.under_way(ROOM)
    assert waiting is not None
    first.heard(orjson.dumps(told.said[-1]).decode())
    told.clock.advance(ANSWERS)
    assert not fired(waiting)
    first.end(ROOM, "join")
    assert fired(waiting)


async def test_a_join_is_said_again_while_it_lasts_and_ends_with_its_process() -> None:
    """Others that came unasked hear of it so; of one that is not said any more nothing is left."""
    told = Told(others=Others(has_others=False))
    first, second = told.process("a"), told.process("b")
    await first.tell(ROOM, VERSION, "join")
    told.others.has_others = True
    assert second.under_way(ROOM) is None
    for _ in range(10):
        told.clock.advance(REPEAT)
        assert second.under_way(ROOM) is not None
    waiting = second.under_way(ROOM)
    assert waiting is not None
    first.stop()
    told.clock.advance(LASTS - 1)
    assert not fired(waiting)
    told.clock.advance(1)
    assert fired(waiting)
    assert second.under_way(ROOM) is None
    assert not told.clock.getDelayedCalls()


async def test_a_room_that_several_join_is_waited_for_until_none_does() -> None:
    """However often each says so."""
    told = Told()
    first, second, third = told.process("a"), told.process("b"), told.process("c")
    await first.tell(ROOM, VERSION, "join")
    await second.tell(ROOM, VERSION, "join")
    await first.tell(ROOM, VERSION, "join")
    waiting = third.under_way(ROOM)
    assert waiting is not None
    first.end(ROOM, "join")
    assert not fired(waiting)
    second.end(ROOM, "join")
    assert fired(waiting)
    third.end(ROOM, "join")
    assert told.said[-1] == {"origin": "b", "ended": ROOM}


async def test_rooms_remembered_are_bounded() -> None:
    """Those said last are."""
    told = Told()
    first, second = told.process("a"), told.process("b")
    await first.tell("!0:hydra.test", VERSION, "join")
    waiting = second.under_way("!0:hydra.test")
    assert waiting is not None
    for number in range(1, MOST_ROOMS + 1):
        second.heard(orjson.dumps({"origin": "a", "joins": f"!{number}:hydra.test"}).decode())
    assert fired(waiting)
    assert second.under_way("!0:hydra.test") is None
    assert second.under_way(f"!{MOST_ROOMS}:hydra.test") is not None
    second.stop()
    assert len(told.clock.getDelayedCalls()) == 1
