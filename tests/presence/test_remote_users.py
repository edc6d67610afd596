# SPDX-License-Identifier: Apache-2.0
"""Presence of users of other servers, who come to rooms of this one and leave them."""

from __future__ import annotations

import pytest

from homeserver.errors import Forbidden
from homeserver.presence import RemotePresence
from homeserver.rooms.engine import Room
from homeserver.stream import Stream
from storage.database import Database
from tests.presence.test_presence import Process, add_users
from tests.rooms.engine_fixture import ALICE, BOB, Engine, heard
from tests.rooms.intake.dag import MEMBER, Dag, clock
from tests.rooms.intake.intake_fixture import DAVE, ends
from tests.rooms.intake.intake_fixture import Process as Intake

WAYS = pytest.mark.parametrize("way", ["here", "by another process", "too many to name"])
"""How it is learned who came and left: the rooms are written here, or by a process that tells this one."""


class World:
    """Alice and Bob, who are about and each have a room; Alice is in Bob's.

    Dave of another server, who is online, is in Alice's, and if he is to be in both, in Bob's.
    """

    alices: Room
    bobs: Room
    of_alice: Dag
    of_bob: Dag

    def __init__(self, process: Process, intake: Intake) -> None:
        self.process = process
        self.intake = intake

    @classmethod
    async def open(
        cls, database: Database, way: str, monkeypatch: pytest.MonkeyPatch, *, both: bool = False
    ) -> World:
        if way == "too many to name":
            monkeypatch.setattr("homeserver.stream.remote_members.MOST_IN_A_LINE", 0)
        beside = way != "here"
        process = await Process.open(database)
        await add_users(database)
        engine = await Engine.open(database, clock=clock, tells=True) if beside else process.engine
        world = cls(process, Intake.on(engine))
        world.alices, world.of_alice = await world.intake.room_with(DAVE)
        world.bobs = await engine.new_room(BOB)
        await engine.join(world.bobs.room_id, ALICE)
        world.of_bob = await Dag.of(database, world.bobs)
        if both:
            await world.join()
        await world.heard()
        for user_id in (ALICE, BOB):
            process.presence.seen(user_id, "D", "online")
        await process.presence.receive([RemotePresence(DAVE, "online", None, 0)])
        await process.pass_time(2)
        return world

    async def join(self) -> None:
        """Dave comes into Bob's room."""
        await self.intake.accept(self.bobs, self.of_bob.join(DAVE, prev=ends(self.bobs)))
        await self.heard()

    async def heard(self) -> None:
        await heard(self.process.engine, self.intake.engine)

    def stream(self) -> Stream:
        return self.process.engine.stream

    async def sync(self, user_id: str, since: int, position: int) -> dict[str, str]:
        """The states that a sync from there tells."""
        presence = self.process.presence
        if not presence.is_known(user_id, since, moved=True):
            await presence.learn()
        return self.process.states(user_id, since, position)


@WAYS
async def test_who_finds_a_user_of_another_server_in_a_room_learns_how_they_are(
    database: Database, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await World.open(database, way, monkeypatch)
    presence = world.process.presence
    at, position = world.process.clock.current, world.stream().position
    assert DAVE not in world.process.states(BOB)
    with pytest.raises(Forbidden):
        await presence.get(BOB, DAVE)
    await world.join()
    assert (await world.sync(BOB, at, position))[DAVE] == "online"
    assert (await presence.get(BOB, DAVE))["presence"] == "online"
    await presence.stop()


@WAYS
async def test_who_parts_from_a_user_of_another_server_learns_no_more_of_them(
    database: Database, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though they stay in other rooms, so that they are remembered."""
    world = await World.open(database, way, monkeypatch, both=True)
    presence = world.process.presence
    assert world.process.states(BOB)[DAVE] == "online"
    left = world.of_bob.write(DAVE, MEMBER, {"membership": "leave"}, DAVE, prev=ends(world.bobs))
    await world.intake.accept(world.bobs, left)
    await world.heard()
    at, position = world.process.clock.current, world.stream().position
    await presence.receive([RemotePresence(DAVE, "unavailable", "secret", 0)])
    await world.process.pass_time(6)
    assert DAVE not in await world.sync(BOB, at, position)
    assert (await world.sync(ALICE, at, position))[DAVE] == "unavailable"
    with pytest.raises(Forbidden):
        await presence.get(BOB, DAVE)
    await presence.stop()
