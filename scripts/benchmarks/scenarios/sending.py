# SPDX-License-Identifier: Apache-2.0
"""Scenarios of sending messages while nobody listens."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from scripts.benchmarks.client import Client
from scripts.benchmarks.measuring import Load, drive
from scripts.benchmarks.scenarios.shape import RunTrial
from scripts.benchmarks.world import ROOM_MEMBERS, World

TEXT = "The quick brown fox jumps over the lazy dog; the dog, being lazy, lets it pass."


@asynccontextmanager
async def eight_rooms(world: World) -> AsyncIterator[RunTrial]:
    """Eight users send at once, each in a room of its own; all eight are members of each room."""
    users = [user.twin() for user in await world.users(8)]
    rooms = [await world.room_of(8, f"One of eight: {index}") for index in range(8)]
    yield _sends(world, list(zip(users, rooms, strict=True)))
    for user in users:
        user.close()


@asynccontextmanager
async def one_sender(world: World) -> AsyncIterator[RunTrial]:
    """One user sends, each message after the last was answered."""
    room_id = await world.room_of(ROOM_MEMBERS, "Twenty")
    sender = (await world.users(1))[0].twin()
    yield _sends(world, [(sender, room_id)])
    sender.close()


@asynccontextmanager
async def ten_senders(world: World) -> AsyncIterator[RunTrial]:
    """Ten members of one room send at once."""
    room_id = await world.room_of(ROOM_MEMBERS, "Twenty")
    senders = [user.twin() for user in await world.users(10)]
    yield _sends(world, [(sender, room_id) for sender in senders])
    for sender in senders:
        sender.close()


def _sends(world: World, senders: Sequence[tuple[Client, str]]) -> RunTrial:
    def sending(client: Client, room_id: str) -> Callable[[], Awaitable[object]]:
        return lambda: client.send(room_id, f"t{world.number()}", TEXT)

    async def run(seconds: float) -> Load:
        return await drive([sending(client, room_id) for client, room_id in senders], seconds)

    return run
