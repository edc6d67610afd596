# SPDX-License-Identifier: Apache-2.0
"""Scenarios of rooms: reading their history and state, making and joining them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import quote

from scripts.benchmarks.measuring import Load, drive
from scripts.benchmarks.scenarios.sending import TEXT
from scripts.benchmarks.scenarios.shape import RunTrial
from scripts.benchmarks.world import LISTENERS, ROOM_MEMBERS, World

JOINED_ROOMS = 4


@asynccontextmanager
async def messages(world: World) -> AsyncIterator[RunTrial]:
    """Four members each read the newest hundred events of a room that has more."""
    room_id = await world.room_of(4, "History")
    readers = [user.twin() for user in await world.users(4)]
    for number in range(110):
        await readers[number % 4].send(room_id, f"t{world.number()}", TEXT)
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/messages?dir=b&limit=100"

    async def run(seconds: float) -> Load:
        return await drive([partial(reader.call, "GET", path) for reader in readers], seconds)

    yield run
    for reader in readers:
        reader.close()


@asynccontextmanager
async def state(world: World) -> AsyncIterator[RunTrial]:
    """Four members each read the whole state of a room of twenty."""
    room_id = await world.room_of(ROOM_MEMBERS, "Twenty")
    readers = [user.twin() for user in await world.users(4)]
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/state"

    async def run(seconds: float) -> Load:
        return await drive([partial(reader.call, "GET", path) for reader in readers], seconds)

    yield run
    for reader in readers:
        reader.close()


@asynccontextmanager
async def create(world: World) -> AsyncIterator[RunTrial]:
    """Two users make named private rooms."""
    creators = [await world.register(world.anyone) for _ in range(2)]

    async def run(seconds: float) -> Load:
        makes: list[Callable[[], Awaitable[object]]] = [
            partial(creator.create_room, preset="private_chat", name="A room") for creator in creators
        ]
        return await drive(makes, seconds, at_least=4)

    yield run
    for creator in creators:
        creator.close()


@asynccontextmanager
async def join(world: World) -> AsyncIterator[RunTrial]:
    """Users join public rooms, five at once and 51 members at most, until all are in or time is up."""
    creator, *others = await world.users(LISTENERS + 1)
    trials = world.scale.repeats + 1
    rooms = [
        await creator.create_room(preset="public_chat", name="Open") for _ in range(trials * JOINED_ROOMS)
    ]

    async def run(seconds: float) -> Load:
        opened = [rooms.pop() for _ in range(JOINED_ROOMS)]
        waiting = [(user, room_id) for room_id in opened for user in others]

        async def join_next() -> None:
            user, room_id = waiting.pop()
            await user.join(room_id)

        return await drive([join_next] * 5, seconds, at_least=5, at_most=len(waiting))

    yield run
