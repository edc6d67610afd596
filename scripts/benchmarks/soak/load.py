# SPDX-License-Identifier: Apache-2.0
"""What clients do during a soak: a little of everything, at a pace that leaves the server most of its time.

Each activity is an endless repetition; what it did is counted by its name, what failed apart. It is not a
measurement of speed, so nothing waits for anything else and nothing is judged by how long it takes.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import quote

import orjson

from scripts.benchmarks.client import Client, Connection, RequestFailed, WebSocket, next_batch
from scripts.benchmarks.key_holders import ONE_TIME_ALGORITHM, KeyHolder, message_path, olm_message
from scripts.benchmarks.soak.pictures import picture
from scripts.benchmarks.world import PASSWORD, World, each

CLIENT: Final = "/_matrix/client/v3"
FILTERS: Final = (
    None,
    '{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":20}}}',
    '{"room":{"timeline":{"limit":5,"types":["m.room.message"]}},"presence":{"types":[]}}',
)


@dataclass(frozen=True, slots=True)
class Size:
    """How many of everything, and how long an activity rests between two steps (seconds), the warm-up apart."""

    members: int
    small_rooms: int
    pollers: int
    web_sockets: int
    pause: float


FULL_SIZE: Final = Size(members=150, small_rooms=60, pollers=20, web_sockets=10, pause=0.5)
QUICK_SIZE: Final = Size(members=20, small_rooms=10, pollers=5, web_sockets=3, pause=0.2)


@dataclass(slots=True)
class Counts:
    """What was done, and what was not."""

    done: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    first_failure: dict[str, str] = field(default_factory=dict)


class Load:
    """The population of a soak and its activities."""

    def __init__(self, world: World, size: Size) -> None:
        self._world = world
        self._size = size
        self._users: Sequence[Client] = []
        self._holders: Sequence[KeyHolder] = []
        self._large = ""
        self._newest = ""
        self._small: list[tuple[str, list[Client]]] = []
        self.counts = Counts()

    async def prepare(self) -> None:
        """Make users and rooms."""
        self._users = await self._world.users(self._size.members)
        self._large = await self._world.room_of(self._size.members, "Everybody")
        makings = [self._make_small_room(index) for index in range(self._size.small_rooms)]
        self._small = await each([_constantly(making) for making in makings])
        self._holders = await self._world.key_holders()
        # What is kept of each user is there before the first sample: drawn at random, not all would have come in time.
        everybody = [*self._users, *(holder.user for holder in self._holders)]
        await each([partial(self._come, user) for user in everybody])

    async def _come(self, user: Client) -> None:
        client = user.twin()
        await client.sync(filter_json=FILTERS[1])
        client.close()

    async def run(self, seconds: float, pace: float = 1.0) -> None:
        """Do everything at once for so long; `pace`: by how much the rests between steps are shorter."""
        pause = self._size.pause / pace
        activities: list[Callable[[], Awaitable[None]]] = [
            *(self._send_small, self._send_small, self._send_large, self._page, self._change_state),
            *(self._come_and_go, self._read_and_type, self._files, self._write_to_devices, self._claim_keys),
            *(self._log_in_and_out, self._fail, self._initial_sync, self._make_room),
            *([self._poll] * self._size.pollers),
            *([self._listen_by_web_socket] * self._size.web_sockets),
        ]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for activity in activities:
                    group.create_task(self._repeat(activity, pause))

    async def _repeat(self, activity: Callable[[], Awaitable[None]], pause: float) -> None:
        name = activity.__name__.strip("_").replace("_", " ")
        while True:
            try:
                await activity()
                self.counts.done[name] += 1
            except (RequestFailed, OSError, ValueError, LookupError, asyncio.IncompleteReadError) as error:
                self.counts.failed[name] += 1
                self.counts.first_failure.setdefault(name, f"{type(error).__name__}: {error}")
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))

    async def _make_small_room(self, index: int) -> tuple[str, list[Client]]:
        members = random.sample(list(self._users), min(6, len(self._users)))
        room_id = await members[0].twin().create_room(preset="public_chat", name=f"Small room {index}")
        for member in members[1:]:
            await member.twin().join(room_id)
        return room_id, members

    def _anyone(self) -> Client:
        return random.choice(self._users).twin()

    # ---------------------------------------------------------------- activities, a step each

    async def _send_small(self) -> None:
        room_id, members = random.choice(self._small)
        sender = random.choice(members).twin()
        for _ in range(4):
            await sender.send(room_id, f"t{self._world.number()}", "word " * random.randint(1, 300))
        sender.close()

    async def _send_large(self) -> None:
        sender = self._anyone()
        answer = await sender.send(self._large, f"t{self._world.number()}", "word " * random.randint(1, 40))
        self._newest = orjson.loads(answer)["event_id"]
        sender.close()

    async def _poll(self) -> None:
        client = self._anyone()
        since = next_batch(await client.sync(filter_json=random.choice(FILTERS)))
        for _ in range(random.randint(1, 12)):
            since = next_batch(await client.sync(since=since, timeout=2000))
        if self._newest:
            receipt = f"{CLIENT}/rooms/{quote(self._large)}/receipt/m.read/{quote(self._newest)}"
            await client.call("POST", receipt, {})
        with suppress(TimeoutError):  # and it hangs up in the middle of the last one
            async with asyncio.timeout(0.3):
                await client.sync(since=since, timeout=30_000)
        client.close()

    async def _listen_by_web_socket(self) -> None:
        client = self._anyone()
        since = await self._world.token_of(client)
        path = f"/_matrix/client/ws/r0?access_token={quote(client.token)}&since={quote(since)}"
        socket = await WebSocket.connect(client.host, client.port, path, {"Sec-WebSocket-Protocol": "m.json"})
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(1, 20)):
                    while True:
                        await socket.receive()
        finally:
            socket.close()
            client.close()

    async def _initial_sync(self) -> None:
        client = self._anyone()
        await client.sync(filter_json=random.choice(FILTERS))
        await client.call("GET", f"{CLIENT}/joined_rooms")
        client.close()

    async def _page(self) -> None:
        room_id, members = random.choice([*self._small, (self._large, list(self._users))])
        client = random.choice(members).twin()
        base = f"{CLIENT}/rooms/{quote(room_id)}"
        token = ""
        for _ in range(5):
            page = await client.call_json("GET", f"{base}/messages?dir=b&limit=50{token}")
            if "end" not in page:
                break
            token = f"&from={page['end']}"
        await client.call("GET", f"{base}/members")
        await client.call("GET", f"{base}/state")
        client.close()

    async def _change_state(self) -> None:
        room_id, members = random.choice(self._small)
        creator = members[0].twin()
        topic = {"topic": f"Topic {self._world.number()}: " + "word " * random.randint(1, 50)}
        await creator.call("PUT", f"{CLIENT}/rooms/{quote(room_id)}/state/m.room.topic/", topic)
        name = {"displayname": f"Name {self._world.number()}"}
        await creator.call("PUT", f"{CLIENT}/profile/{quote(creator.user_id)}/displayname", name)
        creator.close()

    async def _come_and_go(self) -> None:
        room_id, members = random.choice(self._small)
        guest = next(user for user in random.sample(list(self._users), 10) if user not in members).twin()
        await guest.join(room_id)
        await guest.send(room_id, f"t{self._world.number()}", "hello")
        await guest.call("POST", f"{CLIENT}/rooms/{quote(room_id)}/leave", {})
        await guest.call("POST", f"{CLIENT}/rooms/{quote(room_id)}/forget", {})
        guest.close()

    async def _make_room(self) -> None:
        """Rooms that are made and given up: what is kept of them must not add up."""
        creator = self._anyone()
        guest = next(user for user in random.sample(list(self._users), 2) if user.user_id != creator.user_id)
        guest = guest.twin()
        room_id = await creator.create_room(preset="private_chat", invite=[guest.user_id])
        await guest.join(room_id)
        await guest.call("POST", f"{CLIENT}/rooms/{quote(room_id)}/leave", {})
        await creator.send(room_id, f"t{self._world.number()}", "alone")
        await creator.call("POST", f"{CLIENT}/rooms/{quote(room_id)}/leave", {})
        creator.close()
        guest.close()
        await asyncio.sleep(2)

    async def _read_and_type(self) -> None:
        room_id, members = random.choice([*self._small, (self._large, list(self._users))])
        client = random.choice(members).twin()
        base = f"{CLIENT}/rooms/{quote(room_id)}"
        user = quote(client.user_id)
        await client.call("PUT", f"{base}/typing/{user}", {"typing": True, "timeout": 3000})
        event_id = orjson.loads(await client.send(room_id, f"t{self._world.number()}", "typed"))["event_id"]
        await client.call("POST", f"{base}/receipt/m.read/{quote(event_id)}", {})
        await client.call("PUT", f"{CLIENT}/presence/{user}/status", {"presence": "online"})
        await client.call(
            "PUT", f"{CLIENT}/user/{user}/account_data/org.example.soak", {"n": self._world.number()}
        )
        client.close()

    async def _files(self) -> None:
        client = self._anyone()
        head = (
            f" HTTP/1.1\r\nHost: {client.host}\r\nAuthorization: Bearer {client.token}\r\n"
            "Content-Type: image/png"
        )
        connection = Connection(client.host, client.port)
        body = picture(random.randint(50, 400), random.randint(50, 400), self._world.number())
        status, answer = await connection.request(f"POST /_matrix/media/v3/upload{head}".encode(), body)
        if status != 200:
            raise RequestFailed("POST", "upload", status, answer)
        place = orjson.loads(answer)["content_uri"].removeprefix("mxc://")
        await client.call("GET", f"/_matrix/client/v1/media/download/{place}")
        size = "width=64&height=64&method=scale"
        await client.call("GET", f"/_matrix/client/v1/media/thumbnail/{place}?{size}")
        connection.close()
        client.close()
        await asyncio.sleep(1)

    async def _write_to_devices(self) -> None:
        holders = random.sample(list(self._holders), min(20, len(self._holders)))
        sender = holders[0].user.twin()
        messages = {
            holder.user.user_id: {device.client.device_id: olm_message() for device in holder.devices}
            for holder in holders[1:]
        }
        await sender.call(
            "PUT", message_path("m.room.encrypted", f"t{self._world.number()}"), {"messages": messages}
        )
        reader = holders[1].user.twin()
        nothing = '{"room":{"rooms":[]}}'
        since = next_batch(await reader.sync(filter_json=nothing))
        await reader.sync(since=since, filter_json=nothing)
        sender.close()
        reader.close()

    async def _claim_keys(self) -> None:
        holder, *others = random.sample(list(self._holders), min(10, len(self._holders)))
        asker = holder.user.twin()
        await holder.devices[0].add_one_time_keys(5)
        await asker.call(
            "POST", f"{CLIENT}/keys/query", {"device_keys": {other.user.user_id: [] for other in others}}
        )
        wanted = {
            other.user.user_id: {other.devices[0].client.device_id: ONE_TIME_ALGORITHM} for other in others
        }
        await asker.call("POST", f"{CLIENT}/keys/claim", {"one_time_keys": wanted})
        asker.close()

    async def _log_in_and_out(self) -> None:
        """Devices, and now and then users, who come once and never again."""
        first = self._anyone()
        device = await first.log_in(PASSWORD)
        await device.sync(filter_json=FILTERS[1])
        await device.call("POST", f"{CLIENT}/logout", {})
        if random.random() < 0.2:
            newcomer = await self._world.register(first)
            await newcomer.join(self._large)
            await newcomer.sync()
            await newcomer.call("POST", f"{CLIENT}/rooms/{quote(self._large)}/leave", {})
            newcomer.close()
        device.close()
        first.close()
        await asyncio.sleep(2)

    async def _fail(self) -> None:
        """Requests that must be refused, each with something in it that was never seen before."""
        client = self._anyone()
        number = self._world.number()
        stranger = Client(client.host, client.port, token=f"no-such-token-{number}")
        wrong: list[tuple[Client, str, str, dict[str, object] | None]] = [
            (client, "GET", f"{CLIENT}/no/such/endpoint/{number}", None),
            (client, "GET", f"{CLIENT}/rooms/!none{number}:nowhere.localhost/state", None),
            (client, "POST", f"{CLIENT}/join/%23none{number}:bench.localhost", {}),
            (client, "GET", f"{CLIENT}/profile/@none{number}:bench.localhost", None),
            (client, "GET", f"{CLIENT}/sync?since=nonsense{number}", None),
            (client, "GET", f"/_matrix/client/v1/media/download/bench.localhost/none{number}", None),
            (client, "PUT", f"{CLIENT}/rooms/{quote(self._large)}/state/m.room.power_levels/", {"users": 1}),
            (stranger, "GET", f"{CLIENT}/account/whoami", None),
            (stranger, "GET", f"{CLIENT}/sync", None),
        ]
        for who, method, path, body in wrong:
            try:
                await who.call(method, path, body)
            except RequestFailed as error:
                if error.status >= 500:
                    raise
            else:
                raise ValueError(f"{method} {path} was not refused")
        _, writer = await asyncio.open_connection(client.host, client.port)
        writer.write(b"PUT /_matrix/client/v3/pushrules HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{")
        await asyncio.sleep(0.05)
        writer.transport.abort()
        stranger.close()
        client.close()


def _constantly(
    making: Awaitable[tuple[str, list[Client]]],
) -> Callable[[], Awaitable[tuple[str, list[Client]]]]:
    return lambda: making


def batched_counts(counts: Counts) -> str:
    """One line of what was done."""
    return ", ".join(f"{name} {count:,}" for name, count in itertools.islice(counts.done.most_common(), 20))
