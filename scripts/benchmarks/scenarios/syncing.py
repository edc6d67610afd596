# SPDX-License-Identifier: Apache-2.0
"""Scenarios of `/sync` for a user of many rooms."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from scripts.benchmarks.client import Client, next_batch
from scripts.benchmarks.measuring import Load, drive
from scripts.benchmarks.scenarios.shape import RunTrial
from scripts.benchmarks.world import TIMELINE, World

LAZY = json.dumps({"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": TIMELINE}}})


@asynccontextmanager
async def initial(world: World) -> AsyncIterator[RunTrial]:
    """A new client's first sync without a filter, again and again, one at a time."""
    async with _initial(world, None) as run:
        yield run


@asynccontextmanager
async def initial_lazy(world: World) -> AsyncIterator[RunTrial]:
    """The first sync as clients of today ask for it: members as needed, twenty events of each room."""
    async with _initial(world, LAZY) as run:
        yield run


@asynccontextmanager
async def _initial(world: World, filter_json: str | None) -> AsyncIterator[RunTrial]:
    user, _ = await world.much_synced_user()
    client = user.twin()

    async def run(seconds: float) -> Load:
        return await drive([partial(client.sync, filter_json=filter_json)], seconds, at_least=3)

    yield run
    client.close()


@asynccontextmanager
async def idle(world: World) -> AsyncIterator[RunTrial]:
    """A current client asks whether there is anything new, and there is not; four connections at once."""
    user, _ = await world.much_synced_user()
    clients = [user.twin() for _ in range(4)]
    since = next_batch(await user.sync(filter_json=LAZY))
    operations = [_following(client, since) for client in clients]

    async def run(seconds: float) -> Load:
        return await drive(operations, seconds)

    yield run
    for client in clients:
        client.close()


def _following(client: Client, since: str) -> Callable[[], Awaitable[None]]:
    """Syncs without waiting, each from the token of the last."""
    token = since

    async def sync() -> None:
        nonlocal token
        token = next_batch(await client.sync(since=token))

    return sync


@asynccontextmanager
async def send_and_sync(world: World) -> AsyncIterator[RunTrial]:
    """A message is sent, then a member of its room syncs and gets it; the rooms take turns."""
    user, rooms = await world.much_synced_user()
    sender = (await world.users(1))[0].twin()
    reader = user.twin()
    since = next_batch(await user.sync(filter_json=LAZY))

    async def pair() -> None:
        nonlocal since
        number = world.number()
        text = f"message {number}!"
        await sender.send(rooms[number % len(rooms)], f"t{number}", text)
        since = await _until_seen(reader, since, text.encode())

    async def run(seconds: float) -> Load:
        operations: list[Callable[[], Awaitable[object]]] = [pair]
        return await drive(operations, seconds)

    yield run
    sender.close()
    reader.close()


async def _until_seen(client: Client, since: str, text: bytes) -> str:
    """Sync until `text` is in an answer (the first, unless presence came before it); return the new token."""
    while True:
        body = await client.sync(since=since, timeout=10_000)
        since = next_batch(body)
        if text in body:
            return since
