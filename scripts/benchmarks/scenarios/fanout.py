# SPDX-License-Identifier: Apache-2.0
"""Scenarios of one sender and fifty listeners. The operation is one delivery: a message at one listener.

A round is one message; the next is sent when all listeners have the last. The sending is part of the cost, a
fiftieth of it per delivery.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import quote

from scripts.benchmarks.client import Client, WebSocket, next_batch
from scripts.benchmarks.measuring import Load
from scripts.benchmarks.scenarios.shape import RunTrial
from scripts.benchmarks.world import LISTENERS, World, each

POLL_MILLISECONDS = 30_000


class Listener(Protocol):
    """Somebody to whom updates come."""

    async def update(self) -> bytes:
        """The next update, whatever is in it."""

    def close(self) -> None:
        """Stop listening."""


class PollListener:
    """A client in a long-poll loop."""

    def __init__(self, client: Client, since: str) -> None:
        self._client = client
        self._since = since

    async def update(self) -> bytes:
        """One long-poll."""
        body = await self._client.sync(since=self._since, timeout=POLL_MILLISECONDS)
        self._since = next_batch(body)
        return body

    def close(self) -> None:
        """Hang up."""
        self._client.close()


class WebSocketListener:
    """A client with a WebSocket."""

    def __init__(self, web_socket: WebSocket) -> None:
        self._web_socket = web_socket

    async def update(self) -> bytes:
        """One frame."""
        return await self._web_socket.receive()

    def close(self) -> None:
        """Hang up."""
        self._web_socket.close()


@asynccontextmanager
async def long_polls(world: World) -> AsyncIterator[RunTrial]:
    """Fifty users in `/sync` loops, sent to by one."""

    async def listen(user: Client) -> Listener:
        return PollListener(user.twin(), await world.token_of(user))

    async with _rounds(world, listen) as run:
        yield run


@asynccontextmanager
async def web_sockets(world: World) -> AsyncIterator[RunTrial]:
    """Fifty users with a WebSocket each, sent to by one."""

    async def listen(user: Client) -> Listener:
        since = await world.token_of(user)
        path = f"/_matrix/client/ws/r0?access_token={quote(user.token)}&since={quote(since)}"
        return WebSocketListener(
            await WebSocket.connect(user.host, user.port, path, {"Sec-WebSocket-Protocol": "m.json"})
        )

    async with _rounds(world, listen) as run:
        yield run


@asynccontextmanager
async def _rounds(world: World, listen: Callable[[Client], Awaitable[Listener]]) -> AsyncIterator[RunTrial]:
    room_id = await world.room_of(LISTENERS + 1, "Fifty-one")
    first, *others = await world.users(LISTENERS + 1)
    sender = first.twin()
    listeners = await each([_listening(listen, user) for user in others])
    audience = Audience(listeners)
    # The first updates (everybody's presence) are the listeners' arrival, not a delivery.
    await asyncio.sleep(0.5)

    async def run(seconds: float) -> Load:
        latencies: list[float] = []
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            text = f"message {world.number()}!"
            delivered = audience.expect(text)
            sent = time.perf_counter()
            await sender.send(room_id, f"t{world.number()}", text)
            latencies += [moment - sent for moment in await delivered]
        return Load(len(latencies), time.perf_counter() - started, latencies)

    try:
        yield run
    finally:
        await audience.close()
        sender.close()


class Audience:
    """Listeners that note when an expected text reached each of them."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = listeners
        self._expected = b""
        self._arrivals: list[float] = []
        self._complete: asyncio.Future[list[float]] | None = None
        self._tasks = [asyncio.create_task(self._listen(listener)) for listener in listeners]

    def expect(self, text: str) -> "asyncio.Future[list[float]]":
        """The moments (of `perf_counter`) at which the text arrived, once it has everywhere."""
        self._expected = text.encode()
        self._arrivals = []
        self._complete = asyncio.get_running_loop().create_future()
        return self._complete

    async def close(self) -> None:
        """Send everybody home."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()

    async def _listen(self, listener: Listener) -> None:
        try:
            while True:
                body = await listener.update()
                if self._expected and self._expected in body:
                    self._arrivals.append(time.perf_counter())
                    if len(self._arrivals) == len(self._listeners) and self._complete is not None:
                        self._complete.set_result(self._arrivals)
        except Exception as error:
            # A listener that fails would leave its round waiting for ever; the round fails instead.
            if self._complete is not None and not self._complete.done():
                self._complete.set_exception(error)
            raise


def _listening(
    listen: Callable[[Client], Awaitable[Listener]], user: Client
) -> Callable[[], Awaitable[Listener]]:
    return lambda: listen(user)
