# SPDX-License-Identifier: Apache-2.0
"""Events whose senders cannot be asked for what is before them, for a while or for good."""

from __future__ import annotations

from twisted.internet.task import deferLater

from federation.inbound import backlog
from storage.database import Database
from tests.federation.inbound.telling import Telling
from tests.federation.inbound.test_gaps import HYDRA, OTHER, ROOM, deliver, make_due, waiting, world
from tests.reactor import reactor


async def test_what_a_cut_network_hides_is_waited_for(database: Database) -> None:
    """Not spared by a state that somebody else tells; and looked for at once when the sender is there again."""
    inbound, room, other = world(database)
    chain = room.chain(30)
    last = room.events[chain[-1].event_id]
    Telling({each.event_id: each for each in (room.create, room.join, last)}).serve(other)
    room.server.reachable = False
    await deliver(inbound, last)
    assert inbound.intake.states == {}
    assert await waiting(database) == [(last.event_id, 1)]
    room.server.reachable = True
    room.serve()
    inbound.backlog.reachable(HYDRA)
    while await waiting(database):
        await deferLater(reactor, 0.01)
    await inbound.backlog.idle()
    assert inbound.intake.states == {}
    assert {each.event_id for each in chain} <= set(inbound.intake.flags)


async def test_a_server_that_stays_away_is_not_waited_for(database: Database) -> None:
    """Beyond a minute or so: then what others tell has to do."""
    inbound, room, other = world(database)
    chain = room.chain(3)
    del room.events[chain[0].event_id], room.events[chain[1].event_id]
    room.serve(other)
    room.server.reachable = False
    await deliver(inbound, chain[-1])
    for _ in range(backlog.BRIDGED_FROM):
        assert chain[-1].event_id not in inbound.intake.flags
        await make_due(database)
        inbound.backlog._wake(ROOM)
        await inbound.backlog.idle()
    assert set(inbound.intake.states) == {chain[-1].event_id}


async def test_being_there_again_costs_no_attempt(database: Database) -> None:
    """Or a server that comes and goes would use up those of its events."""
    inbound, room, _ = world(database)
    chain = room.chain(2)
    await deliver(inbound, chain[-1])
    for _ in range(3):
        assert await inbound.store.hasten(HYDRA) == {ROOM}
        assert await waiting(database) == [(chain[-1].event_id, 0)]
        inbound.backlog._wake(ROOM)
        await inbound.backlog.idle()
        assert await waiting(database) == [(chain[-1].event_id, 1)]
    assert await inbound.store.hasten(OTHER) == set()
