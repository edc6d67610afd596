# SPDX-License-Identifier: Apache-2.0
"""The operations that are counted: each prepares a scene of its own and then gives the phases of one repetition.

A new one is a function and a line in `OPERATIONS`. Those between servers are in `between_servers`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import quote

from scripts.benchmarks.client import Client, Json, next_batch
from scripts.benchmarks.key_holders import ONE_TIME_ALGORITHM, KeyHolder, message_path, olm_message
from scripts.benchmarks.world import QUICK, World
from tests.costs.bench import Phase
from tests.costs.talking import Backstage, Line, Socket, one, serial, together

REPETITIONS: Final = 7
WARM_UP: Final = 3
"""Repetitions before those that count: statements are prepared, caches filled."""
ALL: Final = REPETITIONS + WARM_UP
LISTENERS: Final = 20
DEVICES: Final = 20
TEXT: Final = "The quick brown fox jumps over the lazy dog; the dog, being lazy, lets it pass."
LAZY: Final = json.dumps({"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 20}}})
CLIENT: Final = "/_matrix/client/v3"

Repetition = Callable[[], Sequence[Phase]]
Prepare = Callable[["Stage"], Repetition]


@dataclass(frozen=True, slots=True)
class Stage:
    """What operations are prepared with; `open` closes what they leave."""

    world: World
    backstage: Backstage
    stack: ExitStack

    def line(self, client: Client) -> Line:
        """A new connection."""
        line = Line(client)
        self.stack.callback(line.close)
        return line

    def users(self, count: int) -> list[Client]:
        """The first of the shared users."""
        return self.backstage.run(self.world.users(count))

    def room_of(self, count: int, purpose: str) -> str:
        """A room of the first of them, made once per purpose."""
        return self.backstage.run(self.world.room_of(count, purpose))


@contextmanager
def stage(port: int) -> Iterator[Stage]:
    """A world on a server of its own."""
    with ExitStack() as stack:
        backstage = Backstage()
        stack.callback(backstage.close)
        world = World(port, QUICK)

        async def hang_up() -> None:
            world.close()
            await asyncio.sleep(0.01)  # the loop closes sockets a few turns later

        stack.callback(lambda: backstage.run(hang_up()))
        yield Stage(world, backstage, stack)


def whoami(stage: Stage) -> Repetition:
    """Nothing but a request with a token."""
    line = stage.line(stage.users(1)[0])
    return lambda: [one(line, "GET", f"{CLIENT}/account/whoami")]


def one_send(stage: Stage) -> Repetition:
    """A message into a room of 20 of whom nobody listens."""
    room_id = stage.room_of(20, "Twenty")
    line = stage.line(stage.users(1)[0])
    return lambda: [send(line, room_id)]


def ten_sends(stage: Stage) -> Repetition:
    """Ten members send at once."""
    room_id = stage.room_of(20, "Twenty")
    lines = [stage.line(user) for user in stage.users(10)]
    return lambda: [together(lines, [sending_of(room_id) for _ in lines])]


def fan_out_poll(stage: Stage) -> Repetition:
    """A message to twenty long-polls, and their next requests."""
    room_id = stage.room_of(LISTENERS + 1, "Listened to")
    first, *others = stage.users(LISTENERS + 1)
    sender, lines = stage.line(first), [stage.line(user) for user in others]
    tokens = [stage.backstage.run(stage.world.token_of(user)) for user in others]
    poll(lines, tokens)
    drain(sender, room_id, lines, tokens)

    def repetition() -> Sequence[Phase]:
        text = f"message {serial()}!"
        sending = one(sender, *sending_of(room_id, text))

        def hear() -> int:
            return sending.hear() + hear_all(lines, tokens, text)

        return [Phase(sending.say, hear), Phase(lambda: poll(lines, tokens), lambda: 0)]

    return repetition


def fan_out_web_socket(stage: Stage) -> Repetition:
    """A message to twenty WebSockets."""
    room_id = stage.room_of(LISTENERS + 1, "Heard by WebSockets")
    first, *others = stage.users(LISTENERS + 1)
    sender = stage.line(first)
    sockets: list[Socket] = []
    for user in others:
        since = stage.backstage.run(stage.world.token_of(user))
        path = f"/_matrix/client/ws/r0?access_token={quote(user.token)}&since={quote(since)}"
        sockets.append(Socket(user, path))
        stage.stack.callback(sockets[-1].close)

    def repetition() -> Sequence[Phase]:
        text = f"message {serial()}!"
        sending = one(sender, *sending_of(room_id, text))
        return [
            Phase(sending.say, lambda: sending.hear() + sum(each.hear(text.encode()) for each in sockets))
        ]

    return repetition


def idle_sync(stage: Stage) -> Repetition:
    """A current client of 30 rooms asks for news, and there are none."""
    user, _ = stage.backstage.run(stage.world.much_synced_user())
    line = stage.line(user)
    since = [next_batch(stage.backstage.run(user.sync(filter_json=LAZY)))]

    def hear() -> int:
        heard = line.hear()
        since[0] = next_batch(line.body)
        return heard

    def ask() -> None:
        line.say("GET", f"{CLIENT}/sync?timeout=0&since={quote(since[0])}")

    return lambda: [Phase(ask, hear)]


def send_and_sync(stage: Stage) -> Repetition:
    """A message in one of 30 rooms, fetched by the next sync."""
    user, rooms = stage.backstage.run(stage.world.much_synced_user())
    sender, reader = stage.line(stage.users(1)[0]), stage.line(user)
    since = [next_batch(stage.backstage.run(user.sync(filter_json=LAZY)))]
    turns = itertools.cycle(rooms)

    def repetition() -> Sequence[Phase]:
        text = f"message {serial()}!"

        def hear() -> int:
            heard = reader.hear()
            since[0] = next_batch(reader.body)
            assert text.encode() in reader.body
            return heard

        def ask() -> None:
            reader.say("GET", f"{CLIENT}/sync?timeout=1000&since={quote(since[0])}")

        return [one(sender, *sending_of(next(turns), text)), Phase(ask, hear)]

    return repetition


def initial_sync(stage: Stage, query: str = "") -> Repetition:
    """The first sync of a client in 30 rooms."""
    user, _ = stage.backstage.run(stage.world.much_synced_user())
    line = stage.line(user)
    return lambda: [one(line, "GET", f"{CLIENT}/sync?timeout=0{query}")]


def messages(stage: Stage) -> Repetition:
    """The newest hundred events of a room."""
    room_id = stage.room_of(4, "History")
    user = stage.users(1)[0]

    async def speak() -> None:
        for number in range(110):
            await user.send(room_id, f"h{number}", TEXT)

    stage.backstage.run(speak())
    line = stage.line(user)
    return lambda: [one(line, "GET", f"{CLIENT}/rooms/{quote(room_id)}/messages?dir=b&limit=100")]


def room_state(stage: Stage) -> Repetition:
    """The state of a room of 20."""
    room_id = stage.room_of(20, "Twenty")
    line = stage.line(stage.users(1)[0])
    return lambda: [one(line, "GET", f"{CLIENT}/rooms/{quote(room_id)}/state")]


def create_room(stage: Stage) -> Repetition:
    """A private room with a name."""
    line = stage.line(stage.users(1)[0])
    body = {"preset": "private_chat", "name": "A room"}
    return lambda: [one(line, "POST", f"{CLIENT}/createRoom", body)]


def join(stage: Stage) -> Repetition:
    """A user joins a public room that has one member."""
    creator, joiner = stage.users(2)

    async def make() -> list[str]:
        return [await creator.create_room(preset="public_chat", name="Open") for _ in range(ALL)]

    rooms = stage.backstage.run(make())
    line = stage.line(joiner)
    return lambda: [one(line, "POST", f"{CLIENT}/join/{quote(rooms.pop())}", {})]


def keys_query(stage: Stage) -> Repetition:
    """All keys of twenty users."""
    holders = _key_holders(stage)
    line = stage.line(holders[0].user)
    body: Json = {"device_keys": {holder.user.user_id: [] for holder in holders}}
    return lambda: [one(line, "POST", f"{CLIENT}/keys/query", body)]


def keys_claim(stage: Stage) -> Repetition:
    """A one-time key of each of twenty devices."""
    holders = _key_holders(stage)
    for holder in holders:
        stage.backstage.run(holder.devices[0].add_one_time_keys(ALL))
    line = stage.line(holders[0].user)
    devices = [holder.devices[0].client for holder in holders]
    wanted = {device.user_id: {device.device_id: ONE_TIME_ALGORITHM} for device in devices}
    return lambda: [one(line, "POST", f"{CLIENT}/keys/claim", {"one_time_keys": wanted})]


def to_device(stage: Stage) -> Repetition:
    """A message of a kilobyte to each of twenty devices."""
    holders = _key_holders(stage)
    line = stage.line(holders[0].user)
    devices = [holder.devices[0].client for holder in holders[1:]]

    def repetition() -> Sequence[Phase]:
        body = {"messages": {device.user_id: {device.device_id: olm_message()} for device in devices}}
        return [one(line, "PUT", message_path("m.room.encrypted", f"t{serial()}"), body)]

    return repetition


def _key_holders(stage: Stage) -> Sequence[KeyHolder]:
    async def make() -> Sequence[KeyHolder]:
        if not stage.world._key_holders:
            users = [await stage.world.register(stage.world.anyone) for _ in range(DEVICES)]
            room_id = await users[0].create_room(preset="public_chat", name="With keys")
            for user in users[1:]:
                await user.join(room_id)
            stage.world._key_holders = [await KeyHolder.equip(user) for user in users]
        return stage.world._key_holders

    return stage.backstage.run(make())


def sending_of(room_id: str, text: str = TEXT) -> tuple[str, str, object]:
    """The request that sends a message."""
    path = f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.message/c{serial()}"
    return "PUT", path, {"msgtype": "m.text", "body": text}


def send(line: Line, room_id: str) -> Phase:
    """A message of this client."""
    return one(line, *sending_of(room_id))


def poll(lines: Sequence[Line], tokens: Sequence[str]) -> None:
    """Write a long-poll on each line."""
    for line, token in zip(lines, tokens, strict=True):
        line.say("GET", f"{CLIENT}/sync?timeout=60000&since={quote(token)}")


def hear_all(lines: Sequence[Line], tokens: list[str], text: str) -> int:
    """Wait until each line's poll was answered with the text; the bytes of all answers. Keeps the tokens current.

    Who is told of something else first, somebody's presence, polls again.
    """
    heard = 0
    for place, line in enumerate(lines):
        while True:
            heard += line.hear()
            tokens[place] = next_batch(line.body)
            if text.encode() in line.body:
                break
            poll([line], [tokens[place]])
    return heard


def drain(sender: Line, room_id: str, lines: Sequence[Line], tokens: list[str]) -> None:
    """Let the polls be answered, and poll again: then nothing but a message answers."""
    text = f"message {serial()}!"
    sending = one(sender, *sending_of(room_id, text))
    sending.say()
    sending.hear()
    hear_all(lines, tokens, text)
    poll(lines, tokens)


OPERATIONS: Final[dict[str, Prepare]] = {
    "whoami": whoami,
    "send": one_send,
    "ten sends at once": ten_sends,
    "fan-out to 20 long-polls": fan_out_poll,
    "fan-out to 20 WebSockets": fan_out_web_socket,
    "idle sync": idle_sync,
    "send and sync": send_and_sync,
    "initial sync": initial_sync,
    "initial sync, lazy": partial(initial_sync, query=f"&filter={quote(LAZY)}"),
    "messages": messages,
    "room state": room_state,
    "createRoom": create_room,
    "join": join,
    "keys/query": keys_query,
    "keys/claim": keys_claim,
    "messages to devices": to_device,
}
"""In this order: what is prepared for one is there for those that follow."""
