# SPDX-License-Identifier: Apache-2.0
"""Scenarios of what clients with encryption ask for before they send into a large room.

Everybody shares a room with who asks, as is the rule where keys are asked for.
"""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from scripts.benchmarks.client import Client, Json
from scripts.benchmarks.key_holders import ONE_TIME_ALGORITHM, KeyDevice, KeyHolder, message_path, olm_message
from scripts.benchmarks.measuring import Load, drive
from scripts.benchmarks.scenarios.shape import RunTrial
from scripts.benchmarks.world import World, each

CLAIMED_DEVICES: Final = 100
CLAIMS: Final = 100
"""Of one trial: each takes a key from every device."""
WRITTEN_DEVICES: Final = 200
WRITINGS: Final = 50
"""Of one trial: each leaves a message in every device's queue, and queues are read in real life."""


@asynccontextmanager
async def query(world: World) -> AsyncIterator[RunTrial]:
    """Two devices ask for all keys of all users of a room."""
    holders = await world.key_holders()
    askers = [holders[0].user.twin(), holders[1].user.twin()]
    body: Json = {"device_keys": {holder.user.user_id: [] for holder in holders}}

    async def ask(asker: Client) -> None:
        await asker.call("POST", "/_matrix/client/v3/keys/query", body)

    async def run(seconds: float) -> Load:
        return await drive([partial(ask, asker) for asker in askers], seconds, at_least=4)

    yield run
    for asker in askers:
        asker.close()


@asynccontextmanager
async def claim(world: World) -> AsyncIterator[RunTrial]:
    """A device claims a one-time key of each of a hundred devices, as often as there are keys for a trial.

    One at a time: of two claims at once Synapse gives keys to one only.
    """
    holders = await world.key_holders()
    devices = _devices(holders)[:CLAIMED_DEVICES]
    trials = world.scale.repeats + 1
    await each([partial(device.add_one_time_keys, trials * CLAIMS) for device in devices])
    wanted: dict[str, dict[str, str]] = {}
    for device in devices:
        wanted.setdefault(device.client.user_id, {})[device.client.device_id] = ONE_TIME_ALGORITHM
    asker = holders[-1].user.twin()

    async def ask() -> None:
        answer = await asker.call_json("POST", "/_matrix/client/v3/keys/claim", {"one_time_keys": wanted})
        given = sum(map(len, answer["one_time_keys"].values()))
        if given != len(devices):
            raise ValueError(f"{given} of {len(devices)} keys were given out")

    async def run(seconds: float) -> Load:
        return await drive([ask], seconds, at_least=4, at_most=CLAIMS)

    yield run
    asker.close()


@asynccontextmanager
async def to_device(world: World) -> AsyncIterator[RunTrial]:
    """Two devices send a message each to two hundred devices, others in each trial as far as there are others."""
    holders = await world.key_holders()
    # The two who send are not written to, or their own queues would be in the way.
    senders = [holders[-1].user.twin(), holders[-2].user.twin()]
    avoided = {sender.user_id for sender in senders}
    circle = itertools.cycle([device for device in _devices(holders) if device.client.user_id not in avoided])

    async def run(seconds: float) -> Load:
        written = list(itertools.islice(circle, WRITTEN_DEVICES))
        bodies = [_messages(written) for _ in range(len(senders))]

        async def write(sender: Client, body: Json) -> None:
            await sender.call("PUT", message_path("m.room.encrypted", f"t{world.number()}"), body)

        operations = [partial(write, sender, body) for sender, body in zip(senders, bodies, strict=True)]
        return await drive(operations, seconds, at_least=4, at_most=WRITINGS)

    yield run
    for sender in senders:
        sender.close()


def _devices(holders: Sequence[KeyHolder]) -> list[KeyDevice]:
    return [device for holder in holders for device in holder.devices]


def _messages(devices: Sequence[KeyDevice]) -> Json:
    """The body of a request that sends each device a message of its own."""
    messages: dict[str, Json] = {}
    for device in devices:
        messages.setdefault(device.client.user_id, {})[device.client.device_id] = olm_message()
    return {"messages": messages}
