# SPDX-License-Identifier: Apache-2.0
"""Bytes on disk per message and per state change: what a database grows by, tables and indexes together."""

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import orjson

from scripts.benchmarks.client import Client
from scripts.benchmarks.results import StoredBytes
from scripts.benchmarks.scenarios.sending import TEXT
from scripts.benchmarks.servers import DATABASE, Homeserver
from scripts.benchmarks.world import LISTENERS, World

SETTLE_SECONDS = 2.0
"""Background work (statistics, the user directory) writes a little after the requests are answered."""


async def stored_bytes(world: World, server: Homeserver) -> StoredBytes:
    """Measure messages in a room of their sender alone, and changes to the topic of a room of 51 members.

    Alone, because each message is besides a row of unread notification per local member (on Synapse 40 kB for 50
    of them), which goes when it is read. Not so for state: what a change costs depends on how much state there is.
    """
    alone = await world.room_of(1, "Alone")
    crowded = await world.room_of(LISTENERS + 1, "Fifty-one")
    sender = (await world.users(1))[0].twin()

    async def message() -> bytes:
        return await sender.send(alone, f"t{world.number()}", TEXT)

    async def topic() -> bytes:
        path = f"/_matrix/client/v3/rooms/{quote(crowded)}/state/m.room.topic/"
        return await sender.call("PUT", path, {"topic": f"Topic {world.number()}: {TEXT}"})

    try:
        messages, message_json = await _growth(server, sender, alone, message, world.scale.stored_messages)
        changes, change_json = await _growth(server, sender, crowded, topic, world.scale.stored_state_changes)
    finally:
        sender.close()
    return StoredBytes(messages, message_json, changes, change_json)


async def _growth(
    server: Homeserver, client: Client, room_id: str, write: Callable[[], Awaitable[bytes]], count: int
) -> tuple[float, int]:
    """Bytes per write, and the length of the last event written in its client form without white space."""
    await asyncio.sleep(SETTLE_SECONDS)
    before = server.cluster.size_on_disk(DATABASE)
    for _ in range(count - 1):
        await write()
    event_id = orjson.loads(await write())["event_id"]
    await asyncio.sleep(SETTLE_SECONDS)
    grown = server.cluster.size_on_disk(DATABASE) - before
    event = await client.call_json(
        "GET", f"/_matrix/client/v3/rooms/{quote(room_id)}/event/{quote(event_id)}"
    )
    return grown / count, len(orjson.dumps(event))
