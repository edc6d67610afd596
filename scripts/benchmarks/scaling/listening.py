# SPDX-License-Identifier: Apache-2.0
"""What those cost who only wait: memory and CPU of a worker per long-poll and per WebSocket, per user and per room."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final
from urllib.parse import quote

import psycopg2

from scripts.benchmarks.client import Client, WebSocket, next_batch
from scripts.benchmarks.scaling.measurements import Parked, Worker
from scripts.benchmarks.scenarios.fanout import POLL_MILLISECONDS
from scripts.benchmarks.scenarios.sending import TEXT
from scripts.benchmarks.servers import DATABASE, Homeserver
from scripts.benchmarks.world import FULL, World, each

USERS: Final = 100
"""Among whom those who wait are divided: making users takes long, since their passwords are hashed."""
ROOM_MEMBERS: Final = 10
SETTLE: Final = 3.0
"""Seconds until what arriving has caused is over."""


class Crowd:
    """Clients of one server who wait, of one kind at a time."""

    def __init__(self, server: Homeserver) -> None:
        self._server = server
        self.world = World(server.port, FULL)
        self._waiting: list[asyncio.Task[None]] = []

    async def users(self) -> list[Client]:
        """Those who wait."""
        return await self.world.users(USERS)

    async def park(self, kind: str, count: int, seconds: float) -> Parked:
        """Let so many come and wait, look at them for so long, and send them home."""
        users = await self.users()
        tokens = [await self.world.token_of(user) for user in users]
        arrive = self._poll if kind == "long-poll" else self._open
        await asyncio.sleep(SETTLE)
        process = self._server.process
        bytes_before, cpu_before = process.resident_bytes(), process.cpu_seconds()
        everybody = [
            partial(arrive, users[number % USERS], tokens[number % USERS]) for number in range(count)
        ]
        await each(everybody, at_once=32)
        await asyncio.sleep(SETTLE)
        arrived = process.cpu_seconds()
        await asyncio.sleep(seconds)
        waited = process.cpu_seconds() - arrived
        found = Parked(
            kind,
            count,
            bytes_each=(process.resident_bytes() - bytes_before) / count,
            cpu_each=1000 * waited / count / seconds,
            open_cpu=1000 * (arrived - cpu_before) / count,
        )
        await self.send_home()
        return found

    async def send_home(self) -> None:
        """All of them."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        self._waiting.clear()

    async def _poll(self, user: Client, token: str) -> None:
        client = user.twin()
        first = asyncio.get_running_loop().create_future()

        async def wait() -> None:
            since = token
            try:
                while True:
                    asking = asyncio.ensure_future(client.sync(since=since, timeout=POLL_MILLISECONDS))
                    await asyncio.sleep(0)
                    if not first.done():
                        first.set_result(None)
                    since = next_batch(await asking)
            finally:
                client.close()

        self._waiting.append(asyncio.create_task(wait()))
        await first

    async def _open(self, user: Client, token: str) -> None:
        path = f"/_matrix/client/ws/r0?access_token={quote(user.token)}&since={quote(token)}"
        opened = await WebSocket.connect(user.host, user.port, path, {"Sec-WebSocket-Protocol": "m.json"})

        async def wait() -> None:
            try:
                while True:
                    await opened.receive()
            finally:
                opened.close()

        self._waiting.append(asyncio.create_task(wait()))


async def worker_costs(server: Homeserver, rooms: int) -> Worker:
    """Memory of a process, of its users and rooms, and its connections, idle and with all of its work to do."""
    process = server.process
    await asyncio.sleep(SETTLE)
    idle, idle_connections = process.resident_bytes(), connections_of(server)
    crowd = Crowd(server)
    users = await crowd.users()
    before = process.resident_bytes()
    await each([partial(crowd.world.token_of, user) for user in users])
    await asyncio.sleep(SETTLE)
    user_bytes = (process.resident_bytes() - before) / len(users)
    before = process.resident_bytes()
    members = users[:ROOM_MEMBERS]
    calls = [partial(_make_room, crowd.world, members) for _ in range(rooms)]
    busiest = await _watched(server, each(calls, at_once=20))
    await asyncio.sleep(SETTLE)
    room_bytes = (process.resident_bytes() - before) / rooms
    return Worker(idle, user_bytes, room_bytes, busiest, idle_connections)


async def _make_room(world: World, members: Sequence[Client]) -> None:
    creator, *others = (member.twin() for member in members)
    room_id = await creator.create_room(preset="public_chat", name=f"Room {world.number()}")
    for other in others:
        await other.join(room_id)
    for _ in range(5):
        await creator.send(room_id, f"t{world.number()}", TEXT)
    for client in (creator, *others):
        client.close()


async def _watched(server: Homeserver, work: Awaitable[object]) -> int:
    """The most connections to Postgres that the server had meanwhile."""
    most = 0
    working = asyncio.ensure_future(work)
    while not working.done():
        most = max(most, connections_of(server))
        await asyncio.wait([working], timeout=0.2)
    await working
    return most


def connections_of(server: Homeserver) -> int:
    """The server's connections to Postgres now."""
    connection = psycopg2.connect(server.cluster.url(DATABASE))
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            row = cursor.fetchone()
    finally:
        connection.close()
    assert row is not None
    return int(row[0])


async def wal_per_message(server: Homeserver, send: Callable[[], Awaitable[int]]) -> float:
    """Bytes of write-ahead log per message that `send` sends; it returns how many."""
    before = _wal(server)
    count = await send()
    return (_wal(server) - before) / count


def _wal(server: Homeserver) -> int:
    connection = psycopg2.connect(server.cluster.url(DATABASE))
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
            row = cursor.fetchone()
    finally:
        connection.close()
    assert row is not None
    return int(row[0])


def allow_connections(count: int) -> int:
    """Let this process have that many, if the system does; how many it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(count, hard - 500)
