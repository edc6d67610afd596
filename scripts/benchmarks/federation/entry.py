# SPDX-License-Identifier: Apache-2.0
"""Joining a large room: from a user's request to what people mean by being in it.

Three moments are taken, at a server that has never heard of the host: the request is answered; the room can be used
(it is in a client's `/sync`, with all members or the lazy way, twenty events of its past can be read, and what the
user says has reached a client of the host); all members are listed. What the host alone takes for it, however quick
the joiner, is measured beside it by a `Sender` that asks for the same and believes everything.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, fields
from functools import partial
from typing import Any
from urllib.parse import quote

import orjson

from scripts.benchmarks.client import Client, RequestFailed, next_batch
from scripts.benchmarks.federation.scenarios import Size, join, world_of
from scripts.benchmarks.federation.sender import VERSION, Sender
from scripts.benchmarks.measuring import Load, measure
from scripts.benchmarks.servers import Homeserver, free_port
from scripts.benchmarks.world import World, each

PATIENCE = 120.0
"""Seconds after which a join is taken to have failed."""
PAUSE = 0.03
"""Between two looks at what no request waits for."""
TALKERS = 10
LATELY = 200
"""What is said when all are there: more than a server asks for at once."""
PAST = 20
"""Events that are read of the room's past."""
LAZY = '{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":20}}}'
ROOMS = "/_matrix/client/v3/rooms"


@dataclass(frozen=True, slots=True)
class Entry:
    """Seconds from the request on, and of CPU. `usable` is when the four before it are true."""

    answered: float
    shown_lazy: float
    shown_full: float
    past_read: float
    heard: float
    usable: float
    complete: float
    server_cpu: float
    database_cpu: float


@dataclass(frozen=True, slots=True)
class Floor:
    """Seconds that the host alone takes: for the answer, and on top for a page of the past and for all members."""

    answered: float
    usable: float
    complete: float


Start = Callable[[str], AbstractContextManager[Homeserver]]
"""Starts a server of a kind that nobody has heard of."""


@dataclass(frozen=True, slots=True)
class LargeRoom:
    """A room of the host's, and one of its members."""

    host: Homeserver
    room_id: str
    listener: Client


async def large_room(host: Homeserver, size: Size, progress: Callable[[str], None]) -> LargeRoom:
    """A room of many members, of whom some have spoken since."""
    world = world_of(host)
    creator = await world.register(world.anyone)
    room_id = await creator.create_room(preset="public_chat", room_version=VERSION, name="A large room")
    talkers = await each([lambda: _come_in(world, creator, room_id)] * TALKERS)
    lately = min(LATELY, size.history)
    # Most of it is said while few are there: the more listen, the longer a message takes the host.
    progress(f"  {TALKERS} people say {size.history - lately} things")
    await each([partial(_talk, talker, room_id, "early", size.history - lately) for talker in talkers])
    progress(f"  {size.members} members come in")

    async def come_and_be_silent() -> None:
        (await _come_in(world, creator, room_id)).close()

    await each([come_and_be_silent] * (size.members - 1 - TALKERS))
    await each([partial(_talk, talker, room_id, "late", lately) for talker in talkers])
    return LargeRoom(host, room_id, creator)


async def _come_in(world: World, creator: Client, room_id: str) -> Client:
    member = await world.register(creator.twin())
    await member.join(room_id)
    return member


async def _talk(talker: Client, room_id: str, when: str, count: int) -> None:
    """One's share of what is said."""
    for said in range(count // TALKERS):
        await talker.send(room_id, f"{when}{said}", f"Something to remember, {when} {said}")


async def entries(
    kinds: Sequence[str],
    start: Start,
    room: LargeRoom,
    size: Size,
    progress: Callable[[str], None],
) -> tuple[dict[str, Entry], Floor]:
    """Medians by kind. The kinds take turns, and who was first is last in the next round.

    Each joiner leaves at the end and goes on serving its keys: who comes later is told that it was there, and a server
    that is gone would be asked for keys in vain.
    """
    found: dict[str, list[Entry]] = {kind: [] for kind in kinds}
    floors: list[Floor] = []
    assert room.host.federated is not None
    sender = Sender(free_port(), room.host.server_name, room.host.federated)
    await sender.open()
    with ExitStack() as running:
        running.callback(sender.close)
        await _floor(sender, room.room_id)  # finds the host with cold caches, and does not count
        for turn in range(size.repeats):
            floors.append(await _floor(sender, room.room_id))
            progress(f"  host alone: {floors[-1]}")
            for kind in kinds if turn % 2 == 0 else reversed(kinds):
                entry = await _Trial(running.enter_context(start(kind)), room).run()
                found[kind].append(entry)
                progress(f"  {kind}: {entry}")
    return {kind: _median(Entry, each_of) for kind, each_of in found.items()}, _median(Floor, floors)


def _median(kind: Any, results: Sequence[Any]) -> Any:
    return kind(*(statistics.median(getattr(one, field.name) for one in results) for field in fields(kind)))


async def _floor(sender: Sender, room_id: str) -> Floor:
    sender.hang_up()
    started = time.perf_counter()
    join = (await sender.join(room_id, omit_members=True))[-1]
    answered = time.perf_counter() - started
    before = join.prev_event_ids[0]
    await sender.request(
        "GET", f"/_matrix/federation/v1/backfill/{quote(room_id)}?v={quote(before)}&limit={PAST}"
    )
    usable = time.perf_counter() - started
    await sender.request(
        "GET", f"/_matrix/federation/v1/state/{quote(room_id)}?event_id={quote(join.event_id)}"
    )
    complete = answered + time.perf_counter() - started - usable
    await sender.leave(room_id)
    return Floor(answered, usable, complete)


class _Trial:
    """One join, by a user who has a room at home and two clients open."""

    def __init__(self, server: Homeserver, room: LargeRoom) -> None:
        self._server = server
        self._host = room.host
        self._room_id = room.room_id
        self._room = f"{ROOMS}/{quote(room.room_id)}"
        self._listener = room.listener
        self._started = 0.0
        self._times: dict[str, float] = {}

    async def run(self) -> Entry:
        world = world_of(self._server)
        user = await world.register(world.anyone)
        await user.send(await user.create_room(name="At home"), "home", "Nobody else is here")
        members = await self._members(self._listener)
        cost = await measure(
            lambda: self._enter(user, members + 1), self._server.process, self._server.cluster.process
        )
        await user.call("POST", f"{self._room}/leave", {})
        while await self._members(self._listener) > members:
            await asyncio.sleep(PAUSE)
        times = self._times
        return Entry(
            answered=times["answered"],
            shown_lazy=times["shown lazily"],
            shown_full=times["shown"],
            past_read=times["past"],
            heard=times["heard"],
            usable=max(times[name] for name in ("shown lazily", "shown", "past", "heard")),
            complete=times["complete"],
            server_cpu=cost.server_cpu,
            database_cpu=cost.database_cpu,
        )

    async def _enter(self, user: Client, members: int) -> Load:
        text = f"I am here, {user.user_id}"
        tokens = [next_batch(await user.sync(filter_json=filter_json)) for filter_json in (None, LAZY)]
        heard_from = next_batch(await self._listener.sync(filter_json=LAZY))
        answered = asyncio.Event()

        async def after_the_answer(step: Callable[[Client], Any]) -> None:
            await answered.wait()
            client = user.twin()
            await step(client)
            client.close()

        self._started = time.perf_counter()
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(self._be_shown("shown", user.twin(), tokens[0], None))
            group.create_task(self._be_shown("shown lazily", user.twin(), tokens[1], LAZY))
            group.create_task(self._hear(text, heard_from))
            group.create_task(after_the_answer(lambda client: client.send(self._room_id, "here", text)))
            group.create_task(after_the_answer(self._read_the_past))
            group.create_task(after_the_answer(lambda client: self._list_members(client, members)))
            await join(user, self._room_id, self._host.server_name)
            self._note("answered")
            answered.set()
        return Load(1, time.perf_counter() - self._started, ())

    def _note(self, what: str) -> None:
        self._times[what] = time.perf_counter() - self._started

    async def _be_shown(self, what: str, client: Client, token: str, filter_json: str | None) -> None:
        while True:
            answer = orjson.loads(await client.sync(since=token, timeout=30_000, filter_json=filter_json))
            token = answer["next_batch"]
            if self._room_id in answer.get("rooms", {}).get("join", {}):
                break
        self._note(what)
        client.close()

    async def _hear(self, text: str, token: str) -> None:
        client = self._listener.twin()
        while True:
            answer = await client.sync(since=token, timeout=30_000, filter_json=LAZY)
            token = next_batch(answer)
            if text.encode() in answer:
                break
        self._note("heard")
        client.close()

    async def _read_the_past(self, client: Client) -> None:
        """What others did, from the newest on; a server that has nothing more yet is asked again."""
        events, place = 0, ""
        while True:
            page = await client.call_json("GET", f"{self._room}/messages?dir=b&limit={PAST + 5}{place}")
            events += sum(event["sender"] != client.user_id for event in page["chunk"])
            if events >= PAST:
                break
            if page.get("end"):
                place = f"&from={quote(page['end'])}"
            await asyncio.sleep(PAUSE)
        self._note("past")

    async def _list_members(self, client: Client, wanted: int) -> None:
        while await self._members(client) < wanted:
            await asyncio.sleep(PAUSE)
        self._note("complete")

    async def _members(self, client: Client) -> int:
        """How many are listed as joined; none while that is refused."""
        try:
            return len((await client.call_json("GET", f"{self._room}/joined_members"))["joined"])
        except RequestFailed:
            return 0
