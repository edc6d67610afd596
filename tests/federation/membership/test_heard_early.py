# SPDX-License-Identifier: Apache-2.0
"""What other servers say of a room before they have answered who asks to be let in."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from federation.inbound import rooms
from federation.inbound.assembly import Inbound
from federation.membership.joins_elsewhere import LASTS
from homeserver.errors import RemoteServerFailed
from storage.database import Database
from tests.federation.membership.membership_fixture import Federation
from tests.federation.membership.resident import Resident
from tests.federation.membership.test_joins_elsewhere import HeldBack, Processes, inbound_of, send
from tests.reactor import reactor
from tests.rooms.arrival.remote_room import RemoteRoom
from tests.rooms.engine_fixture import ALICE
from tests.rooms.services_fixture import alice

VERSIONS = ["1", "6", "10", "12"]


@pytest.fixture
def hydra() -> HeldBack:
    return HeldBack("hydra.test")


async def idle(inbound: Inbound) -> None:
    """What waits has come to rest."""
    await inbound.backlog.idle()


# Joins


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_said_while_a_join_takes_long(
    database: Database, hydra: HeldBack, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """All of it is in the room in the end, though nothing that is said later leads back to it."""
    monkeypatch.setattr(rooms, "ARRIVAL_PATIENCE", 0.05)
    room = RemoteRoom(hydra, version)
    Resident(hydra, room)
    processes = await Processes.open(database, hydra)
    join = await processes.join(room.id)
    said = [room.message(f"{number}") for number in range(3)]
    named = room.send("m.room.name", {"name": "Slow"}, "")
    events = [*said, named]
    assert await processes.send(*events) == {each.event.event_id: {} for each in events}
    hydra.answering.callback(None)
    await join
    await processes.heard()
    await idle(processes.inbound)
    client = processes.joining.client(ALICE)
    await client.sync()
    assert client.bodies(room.id)[-3:] == ["0", "1", "2"]
    head = await processes.joining.house.head(room.id)
    name = head.state_event("m.room.name")
    assert name is not None
    assert name.stored.event_id == named.event.event_id
    await processes.stop()


async def test_a_process_that_dies_while_it_joins_holds_its_rooms_events_for_a_minute(
    database: Database, hydra: HeldBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from what it said last; nobody who sends waits that long, and then nothing of them is left."""
    monkeypatch.setattr(rooms, "ARRIVAL_PATIENCE", 0.05)
    room = RemoteRoom(hydra)
    Resident(hydra, room)
    processes = await Processes.open(database, hydra)
    join = await processes.join(room.id)
    processes.joining.membership._elsewhere._say = lambda _payloads: None  # type: ignore[method-assign, assignment]
    event = room.message()
    assert await processes.send(event) == {event.event.event_id: {}}
    known = processes.other.membership._elsewhere
    (lasting,) = known._theirs[room.id].lasting.values()
    assert lasting.getTime() - reactor.seconds() <= LASTS  # type: ignore[attr-defined]
    lasting.reset(0)  # type: ignore[attr-defined]
    await idle(processes.inbound)
    assert await database.fetch("waiting", "SELECT event_id FROM inbound_pdus") == []
    hydra.answering.callback(None)
    await join
    await processes.stop()


# Knocks


async def turned_down(room: RemoteRoom, inbound: Inbound, hydra: HeldBack) -> Deferred[object]:
    """Hydra has taken Alice's knock, said no to it and sends that."""
    await hydra.let_in
    no = room.member(ALICE, "leave", sender=hydra.user())
    return Deferred.fromCoroutine(send(inbound, no))


async def is_out(federation: Federation, room: RemoteRoom) -> None:
    """Alice is told that she does not knock any more."""
    standing = await federation.out_of_band.standing(room.id, ALICE)
    assert standing is not None
    assert standing.membership == "leave"
    client = federation.client(ALICE)
    await client.sync()
    assert not client.has(room.id, "knock")


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("version", ["7", "12"])
async def test_a_knock_that_is_turned_down_before_it_is_answered(
    database: Database, hydra: HeldBack, monkeypatch: pytest.MonkeyPatch, version: str, slow: bool
) -> None:
    """Who knocked hears of it, however long the answer to the knock takes."""
    monkeypatch.setattr(rooms, "ARRIVAL_PATIENCE", 0.05 if slow else 60.0)
    federation = await Federation.open(database, hydra)
    inbound = inbound_of(database, federation)
    room = RemoteRoom(hydra, version, join_rule="knock")
    Resident(hydra, room)
    knock = Deferred.fromCoroutine(
        federation.house.rooms.knocking.knock(alice, room.id, servers=["hydra.test"])
    )
    telling = await turned_down(room, inbound, hydra)
    if slow:
        await telling
    hydra.answering.callback(None)
    await knock
    await telling
    await idle(inbound)
    await is_out(federation, room)
    assert federation.joining.under_way(room.id) is None
    await inbound.stop()


@pytest.mark.parametrize("slow", [False, True])
async def test_a_knock_that_another_process_hears_turned_down(
    database: Database, hydra: HeldBack, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    """It may come to any."""
    monkeypatch.setattr(rooms, "ARRIVAL_PATIENCE", 0.05 if slow else 60.0)
    room = RemoteRoom(hydra, join_rule="knock")
    Resident(hydra, room)
    processes = await Processes.open(database, hydra)
    knock = Deferred.fromCoroutine(
        processes.joining.house.rooms.knocking.knock(alice, room.id, servers=["hydra.test"])
    )
    await hydra.let_in
    await processes.heard()
    telling = await turned_down(room, processes.inbound, hydra)
    if slow:
        await telling
    else:
        await processes.waiting(room.id)
    hydra.answering.callback(None)
    await knock
    await telling
    await processes.heard()
    await idle(processes.inbound)
    await is_out(processes.joining, room)
    await processes.stop()


async def test_a_knock_that_fails_is_not_under_way_any_more(database: Database, hydra: HeldBack) -> None:
    """Nor is one beside a join the join's end, or the other way round."""
    federation = await Federation.open(database, hydra)
    room = RemoteRoom(hydra, join_rule="knock")
    hydra.answering.callback(None)
    with pytest.raises(RemoteServerFailed):
        await federation.house.rooms.knocking.knock(alice, room.id, servers=["hydra.test"])
    assert federation.joining.under_way(room.id) is None
    elsewhere = federation.membership._elsewhere
    await elsewhere.tell(room.id, room.version, "join")
    await elsewhere.tell(room.id, room.version, "knock")
    elsewhere.end(room.id, "knock")
    waiting = federation.joining.under_way(room.id)
    assert waiting is not None
    elsewhere.end(room.id, "join")
    await waiting
    await deferLater(reactor, 0)
    assert federation.joining.under_way(room.id) is None
