# SPDX-License-Identifier: Apache-2.0
"""Holes that other servers had: a past that is told so as to hide what lies before it."""

from __future__ import annotations

from storage.database import Database
from tests.federation.history.history_fixture import World


async def test_advisory_31_a_page_of_rejected_events_is_not_the_end(database: Database) -> None:
    """Page after page of events that the room did not allow: none is shown, and what lies before all of them is."""
    world = await World.open(database)
    first = world.remote.message("the first")
    outsider = world.hydra.user("outsider")
    refused = [
        world.remote.add(world.remote.event("m.room.message", {"body": f"{number}"}, sender=outsider))
        for number in range(250)
    ]
    last = world.remote.message("the last")
    await world.enter()
    walked = await world.walk(limit=20)
    assert not {built.event.event_id for built in refused} & set(walked)
    assert walked == [name for name in world.line() if world.remote.events[name] not in refused]
    assert {first.event.event_id, last.event.event_id} <= set(walked)
    assert len(world.backfills()) <= 20
