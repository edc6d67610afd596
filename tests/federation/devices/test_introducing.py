# SPDX-License-Identifier: Apache-2.0
"""Users of ours and servers that meet for the first time: the servers hear of the users' devices."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import deferLater

from federation.devices.introducing import Introductions
from homeserver.rooms.neighbours import Neighbours
from storage.database import Database
from storage.room_hosts import RoomHostStore
from tests.federation.devices.neighbourhood import THEIRS, XENIA, YVES, Neighbourhood
from tests.reactor import reactor
from tests.rooms.engine_fixture import ALICE, BOB

THIRD = "third.example"


class Acquaintances:
    """Our process, where meetings are noticed."""

    def __init__(self, here: Neighbourhood) -> None:
        self.here = here
        engine = here.process.engine
        self.introductions = Introductions(
            server_name="localhost",
            rooms=engine.cache,
            neighbours=Neighbours(
                server_name="localhost",
                cache=engine.cache,
                user_rooms=engine.user_rooms,
                hosts=RoomHostStore(engine.database),
            ),
            announcer=here.announcer,
        )
        engine.stream.subscribe(self.introductions)

    @classmethod
    async def open(cls, database: Database) -> Acquaintances:
        """Alice has two devices and Bob one, of which everybody who knows them has heard."""
        here = await Neighbourhood.open(database)
        for user_id, device_id in ((ALICE, "A1"), (ALICE, "A2"), (BOB, "B1")):
            await here.process.upload(await here.process.log_in(user_id, device_id))
        await here.quiet()
        here.outbox.taken()
        return cls(here)

    async def told(self) -> list[tuple[str, str]]:
        """Which servers were told of which devices since the last look."""
        while self.introductions._working is not None:
            await deferLater(reactor, 0)
        edus = self.here.outbox.taken()
        assert all(edu.edu_type == "m.device_list_update" for edu in edus)
        return [(edu.destination, edu.content["device_id"]) for edu in edus]

    async def room(self, *users: str) -> str:
        """A room of Alice's."""
        engine = self.here.process.engine
        room_id: str = (await engine.new_room()).room_id
        await engine.join(room_id, *users)
        return room_id


async def test_a_server_that_joins_hears_of_the_users_it_did_not_know(database: Database) -> None:
    """Once, however many of its users come and whatever else they join."""
    met = await Acquaintances.open(database)
    room_id = await met.room(BOB)
    assert await met.told() == []
    join = met.here.process.engine.join
    await join(room_id, XENIA)
    assert await met.told() == [(THEIRS, "A1"), (THEIRS, "A2"), (THEIRS, "B1")]
    await join(room_id, YVES)
    assert await met.told() == []
    await met.room(XENIA, f"@z:{THIRD}")
    assert await met.told() == [(THIRD, "A1"), (THIRD, "A2")]


async def test_a_user_who_joins_is_introduced_to_servers_that_do_not_know_them(database: Database) -> None:
    met = await Acquaintances.open(database)
    both, theirs = await met.room(XENIA, f"@z:{THIRD}"), await met.room(YVES)
    await met.told()
    join = met.here.process.engine.join
    await join(theirs, BOB)
    assert await met.told() == [(THEIRS, "B1")]
    await join(both, BOB)
    assert await met.told() == [(THIRD, "B1")]
    await join(both, BOB)
    assert await met.told() == []


async def test_nothing_is_told_in_rooms_of_our_users(database: Database) -> None:
    """Nor is anything asked."""
    met = await Acquaintances.open(database)
    await met.room(BOB)
    assert met.introductions._working is None
    assert await met.told() == []


async def test_who_came_in_through_another_server_is_introduced(database: Database) -> None:
    met = await Acquaintances.open(database)
    room_id = await met.room(XENIA)
    await met.told()
    room = await met.here.process.engine.cache.get(room_id)
    assert room is not None
    met.introductions.entered(ALICE, room.key)
    assert await met.told() == [(THEIRS, "A1"), (THEIRS, "A2")]
    await met.introductions.stop()
    met.introductions.entered(ALICE, room.key)
    assert await met.told() == []


async def test_who_keeps_a_list_reads_it_anew_once(database: Database) -> None:
    """The first unit says nothing of what went before it, the others follow on it."""
    here = await Neighbourhood.open(database)
    for device_id in ("A1", "A2", "A3"):
        await here.process.upload(await here.process.log_in(ALICE, device_id))
    await here.quiet()
    here.outbox.taken()
    await here.announcer.introduce([ALICE, BOB], [THEIRS])
    told: list[Any] = [edu.content for edu in here.outbox.taken()]
    assert [(each["stream_id"], each["prev_id"]) for each in told] == [(3, []), (3, [3]), (3, [3])]
