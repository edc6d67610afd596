# SPDX-License-Identifier: Apache-2.0
"""What is kept for a room while it is worked on is worked on, too, whoever kept it and when."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from federation.inbound import backlog
from storage.database import Database
from storage.inbound_pdus import WaitingPdu
from tests.federation.inbound.in_memory import Inbound
from tests.federation.inbound.test_gaps import HYDRA, OTHER, ROOM, deliver, waiting, world
from tests.reactor import reactor


async def test_what_comes_when_it_was_looked_whether_anything_is_left(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would lie until the next round."""
    inbound, room, _ = world(database)
    room.serve()
    first, last = room.chain(2)[-1], room.chain(2)[-1]
    early = inbound.store.early
    looked = False

    async def at_the_end(room_id: str, limit: int) -> list[WaitingPdu]:
        nonlocal looked
        found = await early(room_id, limit)
        if limit == 1 and not looked:
            looked = True
            assert await inbound.rooms.take_in(HYDRA, ROOM, [last.pdu]) == {last.event_id: None}
        return found

    monkeypatch.setattr(inbound.store, "early", at_the_end)
    await deliver(inbound, first)
    assert looked
    assert last.event_id in inbound.intake.flags
    assert await waiting(database) == []


async def test_what_another_process_kept_waits_for_no_slow_server(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other may not work on the room, and nobody tells the one that does."""
    monkeypatch.setattr(backlog, "NEXT_AFTER", 0.01)
    inbound, room, other = world(database)
    room.serve(other)
    due, looks = inbound.store.due, 0
    nothing_else: Deferred[None] = Deferred()

    async def before(destination: str, method: str, target: str) -> None:
        if destination == HYDRA:
            await Deferred()

    async def look(room_id: str, limit: int) -> list[WaitingPdu]:
        nonlocal looks
        found = await due(room_id, limit)
        looks += 1
        if looks == 2:
            nothing_else.callback(None)
        return found

    inbound.network.before = before
    monkeypatch.setattr(inbound.store, "due", look)
    elsewhere = Inbound(database, room.server, other, intake=inbound.intake, worker="two")
    by_hydra = room.add(prev=[room.add(prev=[room.join])])
    by_other = other.pdu(
        version="11", room_id=ROOM, prev=[room.add(prev=[room.join])], auth=[room.create, room.join]
    ).event
    room.events[by_other.event_id] = by_other
    assert await inbound.rooms.take_in(HYDRA, ROOM, [by_hydra.pdu]) == {by_hydra.event_id: None}
    await nothing_else
    assert await elsewhere.rooms.take_in(OTHER, ROOM, [by_other.pdu]) == {by_other.event_id: None}
    await elsewhere.backlog.idle()
    while len(await waiting(database)) > 1:
        await deferLater(reactor, 0.01)
    await inbound.backlog.stop()
    assert by_other.event_id in inbound.intake.flags
    assert by_hydra.event_id not in inbound.intake.flags
