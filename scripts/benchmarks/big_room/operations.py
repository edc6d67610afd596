# SPDX-License-Identifier: Apache-2.0
"""What is done in a room of any size, the same in each: so many calls, one after the other, prepared beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import quote

import orjson

from scripts.benchmarks.big_room.places import Builder, Place
from scripts.benchmarks.client import Client, next_batch
from scripts.benchmarks.scenarios.fanout import POLL_MILLISECONDS
from scripts.benchmarks.scenarios.sending import TEXT
from scripts.benchmarks.scenarios.syncing import LAZY

Calls = Sequence[Callable[[], Awaitable[object]]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of the report."""

    key: str
    title: str
    prepare: Callable[[Builder, Place, int], AbstractAsyncContextManager[Calls]]
    """Yields so many calls, and tidies up after them."""
    lists_members: bool = False
    """Whether its answer grows with the members, so that it may cost more where there are more."""
    alone: bool = True
    """Whether it can be the first thing that is done in a room: its preparation does not touch it."""


@asynccontextmanager
async def joining(builder: Builder, place: Place, count: int) -> AsyncIterator[Calls]:
    """New users join, and leave when it is over."""
    people = await builder.people(count)
    yield [partial(person.join, place.room_id) for person in people]
    for person in people:
        await person.call("POST", f"{place.path}/leave", {})
        person.close()


@asynccontextmanager
async def leaving(builder: Builder, place: Place, count: int) -> AsyncIterator[Calls]:
    """Users leave who joined before."""
    people = await builder.people(count)
    for person in people:
        await person.join(place.room_id)
    yield [partial(person.call, "POST", f"{place.path}/leave", {}) for person in people]
    for person in people:
        person.close()


@asynccontextmanager
async def sending(builder: Builder, place: Place, count: int) -> AsyncIterator[Calls]:
    """One member sends."""
    yield [partial(place.speakers[0].send, place.room_id, f"t{builder.number()}", TEXT) for _ in range(count)]


@asynccontextmanager
async def following(builder: Builder, place: Place, count: int) -> AsyncIterator[Calls]:
    """One member sends, another hears it in a long-poll."""
    listener = _Listener(place.speakers[1])
    await listener.arrive()

    async def pair() -> None:
        text = f"message {builder.number()}!"
        heard = listener.hears(text)
        await place.speakers[0].send(place.room_id, f"t{builder.number()}", text)
        await heard

    yield [pair] * count
    listener.close()


@asynccontextmanager
async def typing(_builder: Builder, place: Place, count: int) -> AsyncIterator[Calls]:
    """One member begins to type or stops, another hears of it in a long-poll."""
    listener, typist = _Listener(place.speakers[1]), place.speakers[2]
    await listener.arrive()

    async def change(types: bool) -> None:
        names = f'"{typist.user_id}"' if types else ""
        heard = listener.hears(f'"user_ids":[{names}]')
        path = f"{place.path}/typing/{quote(typist.user_id)}"
        await typist.call("PUT", path, {"typing": types, **({"timeout": 30_000} if types else {})})
        await heard

    yield [partial(change, number % 2 == 0) for number in range(count + count % 2)]
    listener.close()


@asynccontextmanager
async def receipts(builder: Builder, place: Place, count: int) -> AsyncIterator[Calls]:
    """One member reads on, a message at a time."""
    told = [
        orjson.loads(await place.speakers[0].send(place.room_id, f"t{builder.number()}", TEXT))["event_id"]
        for _ in range(count)
    ]
    yield [
        partial(place.speakers[1].call, "POST", f"{place.path}/receipt/m.read/{quote(event_id)}", {})
        for event_id in told
    ]


def reading(path: str) -> Callable[[Builder, Place, int], AbstractAsyncContextManager[Calls]]:
    """One member reads something of the room, again and again."""

    @asynccontextmanager
    async def prepare(_builder: Builder, place: Place, count: int) -> AsyncIterator[Calls]:
        yield [partial(place.speakers[0].call, "GET", place.path + path)] * count

    return prepare


def first_sync(
    filter_json: str | None,
) -> Callable[[Builder, Place, int], AbstractAsyncContextManager[Calls]]:
    """First syncs of a member who is in no other room."""

    @asynccontextmanager
    async def prepare(_builder: Builder, place: Place, count: int) -> AsyncIterator[Calls]:
        yield [partial(place.speakers[0].sync, filter_json=filter_json)] * count

    return prepare


OPERATIONS: Final = (
    Operation("join", "join, of a new user", joining),
    Operation("leave", "leave", leaving, alone=False),
    Operation("send", "send", sending),
    Operation("send-and-sync", "send and the long-poll of another member", following, alone=False),
    Operation("initial-sync", "first sync, lazy, timeline 20", first_sync(LAZY)),
    Operation("messages", "messages, the newest 100", reading("/messages?dir=b&limit=100")),
    Operation("state", "one piece of state", reading("/state/m.room.power_levels")),
    Operation("typing", "typing and the long-poll of another member", typing, alone=False),
    Operation("receipt", "receipt, of the next message", receipts, alone=False),
    Operation("members", "members", reading("/members"), lists_members=True),
    Operation("joined-members", "joined_members", reading("/joined_members"), lists_members=True),
    Operation("whole-sync", "first sync with all members", first_sync(None), lists_members=True),
)


class _Listener:
    """A member who waits in long-polls, one after the other, until a text comes."""

    def __init__(self, member: Client) -> None:
        self._client = member.twin()
        self._since = ""

    async def arrive(self) -> None:
        self._since = next_batch(await self._client.sync(filter_json=LAZY))
        # What the arrival itself brings about (presence) is not to be taken for news.
        self._since = next_batch(await self._client.sync(since=self._since, filter_json=LAZY, timeout=200))

    def hears(self, text: str) -> asyncio.Task[None]:
        """A task that ends when the text has come."""
        return asyncio.create_task(self._until(text.encode()))

    async def _until(self, text: bytes) -> None:
        body = b""
        while text not in body:
            body = await self._client.sync(since=self._since, filter_json=LAZY, timeout=POLL_MILLISECONDS)
            self._since = next_batch(body)

    def close(self) -> None:
        self._client.close()
