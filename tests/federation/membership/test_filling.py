# SPDX-License-Identifier: Apache-2.0
"""Rooms entered by a short answer, filled in the background from the servers that are in them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from psycopg2.errors import ReadOnlySqlTransaction
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from federation.membership import filling
from federation.membership.filling import PartialFiller
from homeserver.protocol.building import BuiltEvent
from homeserver.rooms.intake.incoming import Incoming, Outcome
from storage.database import Database
from storage.partial_rooms import PartialRoom, PartialRoomStore
from tests.federation.membership.membership_fixture import Federation
from tests.federation.membership.resident import Resident
from tests.federation.servers import Received, Refused, RemoteServer
from tests.reactor import reactor
from tests.rooms.arrival.remote_room import Json, RemoteRoom, incoming
from tests.rooms.engine_fixture import ALICE
from tests.rooms.services_fixture import alice

VERSIONS = ["1", "6", "10", "11", "12"]


@pytest.fixture
def hydra() -> RemoteServer:
    return RemoteServer("hydra.test")


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_room_fills_by_itself(database: Database, hydra: RemoteServer, version: str) -> None:
    """The user writes and hears others at once; in the end everybody is known, and the client told."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra, version)
    users = room.fill(150, hydra)
    Resident(hydra, room)
    client = federation.client(ALICE)
    await client.sync()
    await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
    await federation.process.send(room.id, ALICE, "early")
    message = room.event("m.room.message", {"msgtype": "m.text", "body": "hello"}, sender=users[7], by=hydra)
    (verdict,) = await federation.intake.real.receive(room.id, [incoming(message)])
    assert verdict.outcome is Outcome.MISSING  # whoever fetches events does so for what it cites
    await federation.intake.real.receive_outliers(room.id, room.version, _below(room, message))
    (verdict,) = await federation.intake.real.receive(room.id, [incoming(message)])
    assert verdict.outcome is Outcome.ACCEPTED
    await client.sync()
    assert client.bodies(room.id) == ["early", "hello"]

    federation.filler.start()
    await federation.whole(room.id)
    head = await federation.house.head(room.id)
    assert head.joined_count == 152
    asked = [request.path for request in hydra.requests("GET", "/_matrix/federation/v1/")]
    assert (
        len([path for path in asked if "/state" in path or "/event/" in path]) == 1
    )  # one request for all of it
    await client.sync()
    shown = client.shown(room.id)
    assert {key[1] for key in shown if key[0] == "m.room.member"} == {ALICE, hydra.user(), *users}
    await federation.filler.stop()


def _below(room: RemoteRoom, built: BuiltEvent) -> list[Incoming]:
    return [incoming(other) for other in room.auth_chain([built])]


@pytest.mark.parametrize("fault", ["unsigned", "missing", "double"])
async def test_a_state_that_is_no_good_as_a_whole(
    database: Database, hydra: RemoteServer, fault: str
) -> None:
    """What of it is good is kept, and the rest is asked for by its id; a member is neither lost nor made up."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra)
    users = room.fill(5, hydra)
    resident = Resident(hydra, room)

    def twisted(request: Received) -> Json:
        answer = resident._state(request)
        members = [pdu for pdu in answer["pdus"] if pdu.get("state_key") == users[2]]
        others = [pdu for pdu in answer["pdus"] if pdu not in members]
        if fault == "unsigned":
            return {**answer, "pdus": [*others, *({**pdu, "signatures": {}} for pdu in members)]}
        if fault == "missing":
            return {
                **answer,
                "pdus": [pdu for pdu in others if pdu["type"] != "m.room.create"],
                "auth_chain": [],
            }
        ban = room.member(users[2], "ban", sender=hydra.user())
        return {**answer, "pdus": [*answer["pdus"], ban.event.pdu]}

    hydra.on("GET", "/_matrix/federation/v1/state/{room_id}", twisted)
    await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
    federation.filler.start()
    await federation.whole(room.id)
    await federation.filler.stop()
    head = await federation.house.head(room.id)
    assert head.joined_count == 7
    assert head.membership(users[2]) == "join"


async def test_who_turns_out_banned_is_not_heard(database: Database, hydra: RemoteServer) -> None:
    """A message by one who was banned, sent on their old membership, is taken on trust and then taken back."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra)
    (villain,) = room.fill(1, hydra)
    old = dict(room.state)
    room.member(villain, "ban", sender=hydra.user())
    Resident(hydra, room)
    await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
    now, room.state = room.state, old
    message = room.event("m.room.message", {"msgtype": "m.text", "body": "evil"}, sender=villain, by=hydra)
    room.state = now
    await federation.intake.real.receive_outliers(room.id, room.version, _below(room, message))
    (verdict,) = await federation.intake.real.receive(room.id, [incoming(message)])
    assert verdict.outcome is Outcome.ACCEPTED
    federation.filler.start()
    await federation.whole(room.id)
    await federation.filler.stop()
    client = federation.client(ALICE)
    await client.sync()
    assert client.bodies(room.id) == []
    (later,) = await federation.intake.real.receive(
        room.id, [incoming(room.event("m.room.message", {"body": "x"}, sender=villain, by=hydra))]
    )
    assert later.outcome in (Outcome.REJECTED, Outcome.MISSING)


async def test_another_server_fills_it(database: Database, hydra: RemoteServer) -> None:
    """The server that let us in has gone: others in the room are asked."""
    other = RemoteServer("other.test")
    federation = await Federation.open(database, hydra, other)
    room = RemoteRoom(hydra)
    room.fill(3, hydra)
    room.fill(2, other)
    resident, second = Resident(hydra, room), Resident(other, room)
    await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
    second._before = resident._before
    hydra.reachable = False
    federation.filler.start()
    await federation.whole(room.id)
    await federation.filler.stop()
    assert (await federation.house.head(room.id)).joined_count == 7


async def test_who_is_heard_of_later_may_fill_it(database: Database, hydra: RemoteServer) -> None:
    """The server that let us in named nobody else, and tells no state: others are asked that turn out to be there."""
    other = RemoteServer("other.test")
    federation = await Federation.open(database, hydra, other)
    room = RemoteRoom(hydra)
    room.fill(3, hydra)
    resident, second = Resident(hydra, room), Resident(other, room)
    resident.twist_answer = lambda answer: answer.update(servers_in_room=["hydra.test"])
    await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
    second._before = resident._before
    late = room.member("@late:other.test", "join", by=other)
    (verdict,) = await federation.intake.real.receive(room.id, [incoming(late)])
    assert verdict.outcome is Outcome.ACCEPTED
    hydra.reachable = False
    federation.filler.start()
    await federation.whole(room.id)
    await federation.filler.stop()
    assert (await federation.house.head(room.id)).joined_count == 6


async def test_failing_it_is_tried_again_later(database: Database, hydra: RemoteServer) -> None:
    """With growing pauses, by any process, and after a restart."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra)
    room.fill(3, hydra)
    resident = Resident(hydra, room)
    await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])

    def refusing(_request: Received) -> Json:
        raise Refused(500)

    hydra.on("GET", "/_matrix/federation/v1/state/{room_id}", refusing)
    hydra.on("GET", "/_matrix/federation/v1/state_ids/{room_id}", refusing)
    federation.filler.start()
    while not await database.fetch("tried", "SELECT FROM partial_rooms WHERE attempts > 0"):
        pass
    await federation.filler.stop()
    hydra.on("GET", "/_matrix/federation/v1/state_ids/{room_id}", resident._state_ids)
    await database.execute("due", "UPDATE partial_rooms SET not_before = now()")
    restarted = await Federation.open(database, hydra)
    restarted.filler.start()
    await restarted.whole(room.id)
    await restarted.filler.stop()
    assert (await restarted.house.head(room.id)).joined_count == 5


async def test_leaving_before_it_is_full(database: Database, hydra: RemoteServer) -> None:
    """Nobody fills a room that everybody has left."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra)
    Resident(hydra, room)
    await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
    await federation.house.rooms.leaving.leave(alice, room.id)
    federation.filler.start()
    while not await database.fetch("away", "SELECT FROM partial_rooms WHERE attempts > 0"):
        pass
    await federation.filler.stop()
    assert not hydra.requests("GET", "/_matrix/federation/v1/state")


ENTERED = PartialRoom(7, "!r:far.test", "12", "$join", 1, "far.test", [], 0)


class _SlowStore:
    """A store whose answer is still on its way when the filler is stopped."""

    def __init__(self) -> None:
        self.answer: Deferred[PartialRoom] = Deferred()
        self.released: list[PartialRoom] = []

    async def take(self, _lease: float) -> PartialRoom:
        return await self.answer

    async def release(self, entered: PartialRoom) -> None:
        self.released.append(entered)


async def test_a_room_taken_while_stopping_is_given_back() -> None:
    """Else it would wait until the lease lapses."""
    store = _SlowStore()
    filler = _filler(store, None, reactor)
    filler.start()
    stopping = Deferred.fromCoroutine(filler.stop())
    store.answer.callback(ENTERED)
    await stopping
    assert store.released == [ENTERED]


class _OddStore:
    """A store with one room, of which one call fails with what the database door has no type for."""

    def __init__(self, failing: str | None) -> None:
        self.failing = failing
        self.calls: list[str] = []
        self._rooms = [ENTERED]

    async def take(self, _lease: float) -> PartialRoom | None:
        self._answer("take")
        return self._rooms.pop() if self._rooms else None

    async def seconds_until_due(self) -> float | None:
        self._answer("seconds_until_due")
        return None

    async def postpone(self, *_call: object) -> None:
        self._answer("postpone")

    async def release(self, *_call: object) -> None:
        self._answer("release")

    def _answer(self, call: str) -> None:
        self.calls.append(call)
        if call == self.failing:
            raise ReadOnlySqlTransaction("cannot execute UPDATE in a read-only transaction")


class _Nowhere:
    """A cache without rooms."""

    def mark_stale(self, _room_id: str) -> None:
        """It has none."""

    async def get(self, _room_id: str) -> None:
        return None


def _filler(store: Any, cache: Any, scheduler: object, filling_it: Any = None) -> PartialFiller:
    return PartialFiller(
        partial=store,
        state=filling_it,
        completion=filling_it,
        cache=cache,
        server_name="near.test",
        scheduler=scheduler,
    )


@pytest.mark.parametrize("failing", ["take", "seconds_until_due", "postpone"])
async def test_an_odd_error_of_the_database_ends_nothing(failing: str) -> None:
    """After a failover, say, when what was the primary only reads: it is gone on with after a pause."""
    store, clock = _OddStore(failing), Clock()
    filler = _filler(store, _Nowhere(), clock)
    filler.start()
    assert store.calls[-1] == failing
    store.failing = None
    store.calls.clear()
    clock.advance(filling.FIRST_PAUSE)
    assert store.calls[-2:] == ["take", "seconds_until_due"]
    store.calls.clear()
    filler.wake()
    assert store.calls == ["take", "seconds_until_due"]
    await filler.stop()


async def test_a_room_that_cannot_be_given_back_holds_up_no_stop() -> None:
    """Nobody is there to wake the process that stops."""
    store = _OddStore("release")
    unanswered: Deferred[None] = Deferred()

    class Slow(_Nowhere):
        async def get(self, _room_id: str) -> None:
            await unanswered

    filler = _filler(store, Slow(), Clock())
    filler.start()
    await filler.stop()
    assert store.calls == ["take", "release"]


async def test_who_works_at_an_earlier_stay(database: Database, hydra: RemoteServer) -> None:
    """What they say of it, slow as they are, neither puts off the room that was entered again nor ends its lease."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra)
    Resident(hydra, room)
    store = PartialRoomStore(database)
    stays: list[PartialRoom] = []

    async def entry() -> tuple[Any, ...] | None:
        columns = "event_id, attempts, not_before <= now(), leased_until > now()"
        return await database.fetch_one("entry", f"SELECT {columns} FROM partial_rooms")

    for _ in range(2):
        await federation.house.rooms.joining.join(alice, room.id, servers=["hydra.test"])
        for earlier in stays:
            await store.renew(earlier, 3600)
            await store.postpone(earlier, 3600)
        taken = await store.take(3600)
        assert taken is not None
        for earlier in stays:
            await store.release(earlier)
        assert await entry() == (taken.event_id, 0, True, True)
        stays.append(taken)
        await federation.house.rooms.leaving.leave(alice, room.id)
    assert stays[0].event_id != stays[1].event_id


async def test_a_room_that_another_process_entered_again() -> None:
    """It is filled, though this process has not heard of it and takes it for one that everybody has left."""

    class Behind:
        has_heard = False

        def mark_stale(self, _room_id: str) -> None:
            self.has_heard = True

        async def get(self, _room_id: str) -> Any:
            head = SimpleNamespace(
                is_resident=lambda _server: self.has_heard, other_hosts=lambda _server: set()
            )
            return SimpleNamespace(head=head)

    class Filling:
        def __init__(self) -> None:
            self.filled: list[PartialRoom] = []

        async def fetch(self, *_asked: object) -> Any:
            return SimpleNamespace(event_ids=[], members={})

        async def complete(self, entered: PartialRoom, *_state: object) -> None:
            self.filled.append(entered)

    store, work = _OddStore(None), Filling()
    filler = _filler(store, Behind(), Clock(), work)
    filler.start()
    assert work.filled == [ENTERED]
    assert "postpone" not in store.calls
    await filler.stop()
