# SPDX-License-Identifier: Apache-2.0
"""A call's invite on its way, while many others wait for news of their own. The operation is one invite received.

Its latency is what a caller notices: from sending the invite to its arrival in the callee's long-poll.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import quote

from scripts.benchmarks.client import Client
from scripts.benchmarks.measuring import Load
from scripts.benchmarks.scenarios.fanout import Audience, PollListener
from scripts.benchmarks.scenarios.shape import RunTrial
from scripts.benchmarks.world import World, each

IDLE: Final = 200
_SDP: Final = "v=0\r\n" + "a=rtpmap:96 VP8/90000\r\n" * 160
"""About as long as a browser's offer of sound and pictures."""


@asynccontextmanager
async def signalling(world: World) -> AsyncIterator[RunTrial]:
    """One calls another, who follows by long-poll, as two hundred users do to whom nothing happens."""
    caller, callee = await world.register(world.anyone), await world.register(world.anyone)
    room_id = await caller.create_room(preset="private_chat", invite=[callee.user_id], is_direct=True)
    await callee.join(room_id)
    idle = [asyncio.create_task(_wait(listener)) for listener in await each([lambda: _idler(world)] * IDLE)]
    audience = Audience([PollListener(callee.twin(), await world.token_of(callee))])
    await asyncio.sleep(0.5)  # whatever their arrival causes is over

    async def run(seconds: float) -> Load:
        latencies: list[float] = []
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            call_id = f"call {world.number()}!"
            delivered = audience.expect(call_id)
            sent = time.perf_counter()
            await _invite(caller, room_id, call_id, f"t{world.number()}")
            latencies += [moment - sent for moment in await delivered]
        return Load(len(latencies), time.perf_counter() - started, latencies)

    try:
        yield run
    finally:
        for task in idle:
            task.cancel()
        await asyncio.gather(*idle, return_exceptions=True)
        await audience.close()


async def _idler(world: World) -> PollListener:
    """A user of their own, about to wait."""
    user = await world.register(world.anyone.twin())
    return PollListener(user, await world.token_of(user))


async def _wait(listener: PollListener) -> None:
    try:
        while True:
            await listener.update()
    finally:
        listener.close()


async def _invite(caller: Client, room_id: str, call_id: str, transaction: str) -> None:
    body = {
        "call_id": call_id,
        "party_id": "caller",
        "version": "1",
        "lifetime": 60_000,
        "offer": {"type": "offer", "sdp": _SDP},
    }
    path = f"/_matrix/client/v3/rooms/{quote(room_id)}/send/m.call.invite/{transaction}"
    await caller.call("PUT", path, body)
