# SPDX-License-Identifier: Apache-2.0
"""Taking events in, and a message's way from server to server; `forks` and `entry` are about large rooms."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from urllib.parse import quote

from scripts.benchmarks.client import Client, RequestFailed, next_batch
from scripts.benchmarks.federation.sender import VERSION, Sender
from scripts.benchmarks.measuring import percentile
from scripts.benchmarks.servers import Homeserver, free_port
from scripts.benchmarks.world import FULL, World

TRANSACTION = 50
PATIENCE = 600.0
"""Seconds after which what was sent is taken not to arrive."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    name: str
    events: int
    messages: int
    members: int
    history: int
    repeats: int
    crowd: int
    """Members of the room that is forked."""


FULL_SIZE = Size("full", events=1000, messages=100, members=2000, history=3000, repeats=3, crowd=10_000)
QUICK_SIZE = Size("quick", events=200, messages=30, members=200, history=300, repeats=1, crowd=1000)


@dataclass(frozen=True, slots=True)
class Intake:
    """Events taken in: milliseconds of CPU each, and how many a second."""

    server_cpu: float
    database_cpu: float
    rate: float


_worlds: dict[int, World] = {}


def world_of(server: Homeserver) -> World:
    """The server's population, one for all scenarios: names are given once."""
    return _worlds.setdefault(server.port, World(server.port, FULL))


async def intake(server: Homeserver, size: Size) -> Intake:
    """Send events in full transactions, each when the last event of the one before can be read by a client.

    Synapse answers first and works later, and drops what has piled up for a room: hence the waiting, for both.
    """
    assert server.federated is not None
    world = world_of(server)
    reader = await world.register(world.anyone)
    room_id = await reader.create_room(preset="public_chat", room_version=VERSION)
    sender = Sender(free_port(), server.server_name, server.federated)
    await sender.open()
    trials = []
    try:
        state = await sender.join(room_id)
        events = sender.messages(state, size.events * (size.repeats + 1))
        portions = [events[start : start + size.events] for start in range(0, len(events), size.events)]
        for portion in portions:
            parts = [portion[start : start + TRANSACTION] for start in range(0, len(portion), TRANSACTION)]
            transactions = [sender.transaction(part) for part in parts]
            processes = (server.process, server.cluster.process)
            before = [process.cpu_seconds() for process in processes]
            started = time.perf_counter()
            for transaction, part in zip(transactions, parts, strict=True):
                answer = await sender.send(transaction)
                refused = [result for result in answer["pdus"].values() if result]
                if refused:
                    raise ValueError(f"refused: {refused[0]}")
                await readable(reader, room_id, part[-1].event_id)
            seconds = time.perf_counter() - started
            used = [process.cpu_seconds() - start for process, start in zip(processes, before, strict=True)]
            trials.append((*(1000 * cpu / len(portion) for cpu in used), len(portion) / seconds))
    finally:
        sender.close()
    medians = [statistics.median(column) for column in zip(*trials[1:], strict=True)]
    return Intake(*medians)


async def readable(reader: Client, room_id: str, event_id: str) -> None:
    """Wait until a client can read the event."""
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/event/{quote(event_id)}"
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await reader.call("GET", path)
        except RequestFailed:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)
        else:
            return


@dataclass(frozen=True, slots=True)
class Way:
    """Milliseconds from a client's send on one server to another's client having it."""

    p50: float
    p99: float


async def way(near: Homeserver, far: Homeserver, size: Size) -> Way:
    """One message after the other."""
    speaker, listener = [await world.register(world.anyone) for world in (world_of(near), world_of(far))]
    room_id = await speaker.create_room(preset="public_chat", room_version=VERSION)
    await join(listener, room_id, near.server_name)
    token = next_batch(await listener.sync())
    latencies: list[float] = []
    for number in range(size.messages + 10):
        started = time.perf_counter()
        sent = asyncio.ensure_future(speaker.twin().send(room_id, f"w{number}", f"message {number}"))
        wanted = f"message {number}".encode()
        while True:
            answer = await listener.sync(since=token, timeout=30_000)
            token = next_batch(answer)
            if b'"' + wanted + b'"' in answer:
                break
            if time.perf_counter() - started > PATIENCE:
                raise TimeoutError(f"message {number} did not arrive")
        latencies.append(time.perf_counter() - started)
        await sent
    ordered = sorted(latencies[10:])
    return Way(1000 * percentile(ordered, 50), 1000 * percentile(ordered, 99))


async def join(user: Client, room_id: str, via: str) -> None:
    """Join a room of another server."""
    path = f"/_matrix/client/v3/join/{quote(room_id)}?via={quote(via)}&server_name={quote(via)}"
    await user.call("POST", path, {})
