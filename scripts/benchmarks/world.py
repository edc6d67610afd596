# SPDX-License-Identifier: Apache-2.0
"""The population of one server: users and rooms, made through its API and shared by the scenarios."""

import asyncio
import dataclasses
import hashlib
import hmac
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scripts.benchmarks.client import Client, Json, next_batch
from scripts.benchmarks.key_holders import KeyHolder
from scripts.benchmarks.servers import SHARED_SECRET

T = TypeVar("T")
PASSWORD = "a benchmark's password"
REGISTER = "/_synapse/admin/v1/register"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: `QUICK` for orders of magnitude, `FULL` for publishing."""

    name: str
    seconds: float
    """Length of one trial."""
    repeats: int
    warm_up_seconds: float
    rooms: int
    """Rooms of the user whose syncs are measured."""
    key_users: int
    """Users with keys in the room whose members' keys are asked for."""
    stored_messages: int
    stored_state_changes: int

    def repeated(self, repeats: int) -> "Scale":
        """The same with another number of trials."""
        return dataclasses.replace(self, repeats=repeats)


FULL = Scale("full", 4.0, 3, 1.0, rooms=100, key_users=500, stored_messages=4000, stored_state_changes=1000)
QUICK = Scale("quick", 1.5, 1, 0.3, rooms=30, key_users=150, stored_messages=200, stored_state_changes=100)
ROOM_MEMBERS = 20
LISTENERS = 50
TIMELINE = 20


class World:
    """Users and rooms of one server, made when first asked for."""

    def __init__(self, port: int, scale: Scale) -> None:
        self.scale = scale
        self.anyone = Client("127.0.0.1", port)
        self._numbers = itertools.count()
        self._members: list[Client] = []
        self._rooms: dict[str, str] = {}
        self._synced: Client | None = None
        self._synced_rooms: list[str] = []
        self._key_holders: list[KeyHolder] = []

    def number(self) -> int:
        """A number never given before, for transaction ids, names and bodies."""
        return next(self._numbers)

    def skip(self, count: int) -> None:
        """Leave numbers to another world on the same server, whose names must not be given twice."""
        self._numbers = itertools.count(count)

    async def register(self, through: Client) -> Client:
        """Register a new user by shared secret, over the connection of `through`."""
        username = f"user{self.number()}"
        nonce: str = (await through.call_json("GET", REGISTER))["nonce"]
        signed = "\0".join((nonce, username, PASSWORD, "notadmin"))
        mac = hmac.new(SHARED_SECRET.encode(), signed.encode(), hashlib.sha1).hexdigest()
        body: Json = {"nonce": nonce, "username": username, "password": PASSWORD, "admin": False, "mac": mac}
        answer = await through.call_json("POST", REGISTER, body)
        return through.logged_in(answer)

    async def users(self, count: int) -> list[Client]:
        """The first `count` of the users the scenarios share."""
        while len(self._members) < count:
            self._members.append(await self.register(self.anyone))
        return self._members[:count]

    async def room_of(self, count: int, purpose: str, **options: object) -> str:
        """A public room of the first `count` shared users, the first its creator; made once per purpose."""
        if purpose not in self._rooms:
            creator, *others = await self.users(count)
            room_id = await creator.create_room(preset="public_chat", name=purpose, **options)
            await each([_call(user.join, room_id) for user in others])
            self._rooms[purpose] = room_id
        return self._rooms[purpose]

    async def much_synced_user(self) -> tuple[Client, list[str]]:
        """A user in `Scale.rooms` rooms of 8 members each, whose timelines are longer than `TIMELINE`.

        Three of the members speak: what lazy loading of members is for.
        """
        if self._synced is None:
            user = await self.register(self.anyone)
            members = await self.users(7)
            await each(
                [_call(self._make_synced_room, user, members, index) for index in range(self.scale.rooms)]
            )
            self._synced = user
        return self._synced, list(self._synced_rooms)

    async def _make_synced_room(self, user: Client, members: Sequence[Client], index: int) -> None:
        user, *members = (client.twin() for client in (user, *members))
        room_id = await user.create_room(
            preset="public_chat", name=f"Room {index}", topic="What is measured here"
        )
        self._synced_rooms.append(room_id)
        for member in members:
            await member.join(room_id)
        for number in range(TIMELINE + 2):
            await (user, *members)[number % 3].send(
                room_id, f"t{self.number()}", f"A message, the {number}th of its room"
            )
        for client in (user, *members):
            client.close()

    async def key_holders(self) -> Sequence[KeyHolder]:
        """`Scale.key_users` users with all their keys, every fourth with two devices, who share a room."""
        if not self._key_holders:
            calls = [_call(self._key_holder, number % 4 == 0) for number in range(self.scale.key_users)]
            holders = await each(calls)
            room_id = await holders[0].user.create_room(preset="public_chat", name="With keys")
            await each([_call(holder.user.join, room_id) for holder in holders[1:]])
            for holder in holders:
                holder.close()
            self._key_holders = holders
        return self._key_holders

    async def _key_holder(self, has_two: bool) -> KeyHolder:
        through = self.anyone.twin()
        devices = [await self.register(through)]
        if has_two:
            devices.append(await devices[0].log_in(PASSWORD))
        through.close()
        return await KeyHolder.equip(*devices)

    def close(self) -> None:
        """Hang up everybody."""
        synced = [self._synced] if self._synced is not None else []
        for client in (self.anyone, *self._members, *synced):
            client.close()
        for holder in self._key_holders:
            holder.close()

    async def token_of(self, user: Client) -> str:
        """A current sync token."""
        nothing = '{"room":{"rooms":[]},"presence":{"types":[]},"account_data":{"types":[]}}'
        return next_batch(await user.sync(filter_json=nothing))


async def each(calls: Iterable[Callable[[], Awaitable[T]]], *, at_once: int = 6) -> list[T]:
    """Run the calls, a few at once, and return their results in order."""
    gate = asyncio.Semaphore(at_once)

    async def one(call: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await call()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(call)) for call in calls]
    return [task.result() for task in tasks]


def _call(function: Callable[..., Awaitable[T]], *arguments: object) -> Callable[[], Awaitable[T]]:
    return lambda: function(*arguments)
