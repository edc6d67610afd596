# SPDX-License-Identifier: Apache-2.0
"""Resolving forks of a room with many members: what they cost, and how long until the room has one state again.

Two forks. An ordinary one, as two servers make that do not hear of each other for a moment: two branches with a few
changes each, of which some contradict each other, and an event that joins them. And the worst that a member's server
can do: all members changed in one branch, and then one more event on what was before, so that every member is in
question.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homeserver.protocol.events import Event
from scripts.benchmarks.client import Client
from scripts.benchmarks.federation.scenarios import TRANSACTION, Size, readable, world_of
from scripts.benchmarks.federation.sender import VERSION, Sender
from scripts.benchmarks.servers import Homeserver, free_port

MEMBER = "m.room.member"
REPEATS = 5
"""Of each fork; the medians count."""

State = dict[tuple[str, str], Event]


@dataclass(frozen=True, slots=True)
class Fork:
    """Seconds until the last event of it can be read by a client, and of CPU."""

    seconds: float
    server_cpu: float
    database_cpu: float


@dataclass(frozen=True, slots=True)
class Resolution:
    """In a room of so many members."""

    members: int
    ordinary: Fork
    worst: Fork


async def resolution(server: Homeserver, size: Size, progress: Callable[[str], None]) -> Resolution:
    """A room of this server's, with members of another that forks it."""
    assert server.federated is not None
    world = world_of(server)
    reader = await world.register(world.anyone)
    sender = Sender(free_port(), server.server_name, server.federated)
    levels = {"users": {reader.user_id: 100, sender.user_id: 100}, "state_default": 50}
    room_id = await reader.create_room(
        preset="public_chat", room_version=VERSION, power_level_content_override=levels
    )
    await sender.open()
    try:
        joined = await sender.join(room_id)
        crowd = _Crowd(server, sender, reader, room_id, joined)
        progress(f"  {size.crowd} members come in")
        await crowd.come_in(size.crowd)
        ordinary = [await crowd.fork(number) for number in range(REPEATS)]
        progress("  all members change")
        base, before = crowd.last, crowd.state.copy()
        await crowd.change_all()
        worst = [await crowd.contest(base, before, number) for number in range(REPEATS)]
    finally:
        sender.close()
    return Resolution(size.crowd, _median(ordinary), _median(worst))


class _Crowd:
    """The sender's users in the room, and the room's state as the sender's last line of events has it."""

    def __init__(
        self, server: Homeserver, sender: Sender, reader: Client, room_id: str, joined: Sequence[Event]
    ) -> None:
        self._server = server
        self._sender = sender
        self._reader = reader
        self._room_id = room_id
        self._users: list[str] = []
        self.state: State = {event.state_tuple: event for event in joined}
        self.last = joined[-1]

    async def come_in(self, count: int) -> None:
        name = self._sender.server_name
        self._users = [f"@member{number}:{name}" for number in range(count)]
        await self._all({"membership": "join"})

    async def change_all(self) -> None:
        await self._all({"membership": "join", "displayname": "Somebody else"})

    async def _all(self, content: Mapping[str, str]) -> None:
        """One member event of everybody, in a line."""
        made = []
        for user in self._users:
            self.last = self._sender.event(
                user, MEMBER, content, user, previous=[self.last], state=self.state
            )
            self.state[self.last.state_tuple] = self.last
            made.append(self.last)
        await self._tell(made)

    async def fork(self, number: int) -> Fork:
        """Two branches of five, and an event that joins them. Nobody is in two forks, so that what everybody cites is
        what it was before, however the forks are resolved."""
        sender, base = self._sender.user_id, self.last
        made, ends = [], []
        for side in range(2):
            end = base
            changes = [("m.room.topic", {"topic": f"{side}"}, ""), ("m.room.name", {"name": f"{side}"}, "")]
            changes += [
                (MEMBER, {"membership": "leave"}, self._users[4 * number + user]) for user in (0, 1 + side, 3)
            ]
            for event_type, content, state_key in changes:
                end = self._sender.event(
                    sender, event_type, content, state_key, previous=[end], state=self.state
                )
                made.append(end)
            ends.append(end)
        self.last = self._sender.event(
            sender,
            "m.room.message",
            {"msgtype": "m.text", "body": f"{number}"},
            previous=ends,
            state=self.state,
        )
        return await self._measured([*made, self.last])

    async def contest(self, base: Event, before: State, number: int) -> Fork:
        """An event on what was before everybody changed."""
        content = {"topic": f"That never happened, {number}"}
        sender = self._sender.user_id
        event = self._sender.event(sender, "m.room.topic", content, "", previous=[base], state=before)
        return await self._measured([event])

    async def _measured(self, events: Sequence[Event]) -> Fork:
        processes = (self._server.process, self._server.cluster.process)
        transaction = self._sender.transaction(events)
        before = [process.cpu_seconds() for process in processes]
        started = time.perf_counter()
        _check(await self._sender.send(transaction))
        await readable(self._reader, self._room_id, events[-1].event_id)
        seconds = time.perf_counter() - started
        used = [process.cpu_seconds() - start for process, start in zip(processes, before, strict=True)]
        return Fork(seconds, *used)

    async def _tell(self, events: Sequence[Event]) -> None:
        for start in range(0, len(events), TRANSACTION):
            _check(await self._sender.send(self._sender.transaction(events[start : start + TRANSACTION])))


def _check(answer: Mapping[str, Any]) -> None:
    refused = [result for result in answer["pdus"].values() if result]
    if refused:
        raise ValueError(f"refused: {refused[0]}")


def _median(forks: Sequence[Fork]) -> Fork:
    return Fork(
        *(
            statistics.median(column)
            for column in zip(*((f.seconds, f.server_cpu, f.database_cpu) for f in forks), strict=True)
        )
    )
