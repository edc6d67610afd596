# SPDX-License-Identifier: Apache-2.0
"""Waiting for the members of a room that was entered by a short answer."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from homeserver.errors import RemoteServerFailed
from homeserver.rooms.engine import Room
from homeserver.rooms.whole_rooms import PATIENCE, WholeRooms
from storage.database import Database
from tests.federation.servers import RemoteServer
from tests.reactor import reactor
from tests.rooms.arrival.arrival_fixture import Arrivals
from tests.rooms.arrival.remote_room import RemoteRoom
from tests.rooms.engine_fixture import ALICE


@pytest.fixture
def hydra() -> RemoteServer:
    return RemoteServer("hydra.test")


async def test_who_waits_gets_the_whole_room(database: Database, hydra: RemoteServer) -> None:
    """Also where another process completes it."""
    here, there = await Arrivals.open(database), await Arrivals.open(database)
    whole = WholeRooms(here.process.engine.cache, reactor)
    here.process.engine.stream.subscribe(whole)
    remote = RemoteRoom(hydra)
    users = remote.fill(3, hydra)
    before = list(remote.state.values())
    await here.join(remote, ALICE, omit_members=True)
    await whole.knows(remote.id, ALICE)
    waiting = Deferred.fromCoroutine(whole.get(remote.id))
    assert not waiting.called
    await there.fill(remote, before)
    room = await waiting
    assert room is not None
    assert all(room.head.is_joined(user) for user in users)
    assert await whole.get("!unknown:hydra.test") is None


@pytest.mark.parametrize("looks", [1, 2])
async def test_a_room_that_becomes_whole_while_it_is_looked_at(
    database: Database, hydra: RemoteServer, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """Who looked too early for it is not left waiting for what has happened already."""
    here, there = await Arrivals.open(database), await Arrivals.open(database)
    cache, stream, clock = here.process.engine.cache, here.process.engine.stream, Clock()
    whole = WholeRooms(cache, clock)
    stream.subscribe(whole)
    remote = RemoteRoom(hydra)
    users = remote.fill(3, hydra)
    before = list(remote.state.values())
    await here.join(remote, ALICE, omit_members=True)
    get, left = cache.get, [looks]

    async def late(room_id: str) -> Room | None:
        room = await get(room_id)
        left[0] -= 1
        if not left[0]:
            await there.fill(remote, before)
            position = there.process.engine.stream.position
            if stream.position < position:
                await stream.reached(position)
            clock.advance(0)
        return room

    monkeypatch.setattr(cache, "get", late)
    room = await whole.get(remote.id)
    assert room is not None
    assert all(room.head.is_joined(user) for user in users)
    assert not whole._waiting
    assert not clock.getDelayedCalls()


async def test_nobody_waits_for_ever(database: Database, hydra: RemoteServer) -> None:
    """The room goes on being partly known; who needed all of it is told to come again."""
    arrivals = await Arrivals.open(database)
    clock = Clock()
    whole = WholeRooms(arrivals.process.engine.cache, clock)
    arrivals.process.engine.stream.subscribe(whole)
    remote = RemoteRoom(hydra)
    await arrivals.join(remote, ALICE, omit_members=True)
    waiting = Deferred.fromCoroutine(whole.knows(remote.id, "@unknown:hydra.test"))
    await arrivals.process.send(remote.id, ALICE, "something else happens")
    clock.advance(PATIENCE)
    with pytest.raises(RemoteServerFailed):
        await waiting
