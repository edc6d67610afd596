# SPDX-License-Identifier: Apache-2.0
"""People who send messages: as fast as they are answered (closed loop), or at a rate of their own whatever the server
does (open loop).

A person has a few connections, one request at a time on each, as browsers have. In the open loop a message that is due
while all of them wait for an answer is kept back, and counts as offered and not sent. Nobody tries again and nobody
heeds Retry-After: this is the load, not a client.
"""

import asyncio
import heapq
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from scripts.benchmarks.client import Client, parse_response

_EVENT_ID: Final = re.compile(rb'"event_id":\s*"([^"]+)"')
_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after: \d+\r\n", re.IGNORECASE)
_STEP: Final = 0.002
"""Seconds between looks at what is due."""
_LAST_ANSWERS: Final = 10.0
"""Seconds that the last requests get to be answered."""


@dataclass(slots=True)
class Tally:
    """What became of a person's messages in one phase. Latencies are seconds from the request to its answer."""

    offered: int = 0
    kept_back: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    unannounced: int = 0
    """Refusals without Retry-After."""
    events: dict[str, str] = field(default_factory=dict)
    """Of those accepted: message to event id."""
    broken: int = 0
    """Requests that were never answered."""

    @property
    def share(self) -> float:
        """The accepted part of what was offered."""
        return self.statuses[200] / self.offered if self.offered else 1.0


def together(tallies: Sequence[Tally]) -> Tally:
    """Several people's as one; of events, all."""
    total = Tally()
    for each in tallies:
        total.offered += each.offered
        total.kept_back += each.kept_back
        total.statuses += each.statuses
        total.accepted += each.accepted
        total.refused += each.refused
        total.unannounced += each.unannounced
        total.events |= each.events
        total.broken += each.broken
    return total


class _Line(asyncio.Protocol):
    """A connection; tells `answered` of each response."""

    __slots__ = ("_answered", "_buffer", "_sent", "message", "transport")

    def __init__(self, answered: "Callable[[_Line, int, bytes, float], None]") -> None:
        self._answered = answered
        self._buffer = bytearray()
        self._sent = 0.0
        self.message = ""
        self.transport: asyncio.Transport | None = None

    def send(self, message: str, request: bytes) -> None:
        assert self.transport is not None
        self.message = message
        self._sent = time.perf_counter()
        self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.message:
            self._answered(self, 0, b"", 0.0)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        parsed = parse_response(self._buffer)
        if parsed is not None:
            whole = bytes(self._buffer)
            self._buffer.clear()
            self._answered(self, parsed[0], whole, time.perf_counter() - self._sent)


class Person:
    """Somebody who sends messages to one room."""

    def __init__(self, name: str, client: Client, room_id: str, *, connections: int) -> None:
        self.name = name
        self.client = client
        self.room_id = room_id
        self.tally = Tally()
        self._path = f"/_matrix/client/v3/rooms/{quote(room_id)}/send/m.room.message/"
        self._head = (
            f" HTTP/1.1\r\nHost: {client.host}:{client.port}\r\nAuthorization: Bearer {client.token}\r\n"
            "Content-Type: application/json\r\n"
        )
        self._most = connections
        self._lines: list[_Line] = []
        self._idle: list[_Line] = []
        self._number = 0
        self._again = False

    async def connect(self) -> None:
        """Open the connections."""
        loop = asyncio.get_running_loop()
        for _ in range(self._most - len(self._lines)):
            _, line = await loop.create_connection(
                lambda: _Line(self._answered), self.client.host, self.client.port
            )
            self._lines.append(line)
            self._idle.append(line)

    def begin(self, *, again: bool) -> None:
        """A new phase. `again`: each answer is followed by the next message, beginning now on every connection."""
        self.tally = Tally()
        self._again = again
        while again and self._idle:
            self.send()

    def end(self) -> None:
        """Send no more by itself."""
        self._again = False

    def send(self) -> None:
        """Send a message, if a connection is free."""
        self.tally.offered += 1
        while self._idle and self._idle[-1].transport is None:
            self._idle.pop()
        if not self._idle:
            self.tally.kept_back += 1
            return
        self._number += 1
        message = f"{self.name}.{self._number}"
        body = f'{{"msgtype":"m.text","body":"{message}"}}'
        request = f"PUT {self._path}{message}{self._head}Content-Length: {len(body)}\r\n\r\n{body}"
        self._idle.pop().send(message, request.encode())

    @property
    def waiting(self) -> bool:
        """Whether an answer is due."""
        return any(line.message and line.transport is not None for line in self._lines)

    def close(self) -> None:
        """Hang up."""
        for line in self._lines:
            line.message = ""
            if line.transport is not None:
                line.transport.abort()

    def _answered(self, line: _Line, status: int, response: bytes, seconds: float) -> None:
        message, line.message = line.message, ""
        tally = self.tally
        if not status:
            tally.broken += 1
            return
        tally.statuses[status] += 1
        found = _EVENT_ID.search(response) if status == 200 else None
        if found is not None:
            tally.accepted.append(seconds)
            tally.events[message] = found[1].decode()
        elif status in {429, 503}:
            tally.refused.append(seconds)
            tally.unannounced += _RETRY_AFTER.search(response) is None
        self._idle.append(line)
        if self._again:
            self.send()


async def closed_loop(people: Sequence[Person], seconds: float) -> tuple[Tally, float]:
    """Everybody sends for so long, on every connection one message after the other; with the seconds it took."""
    began = time.perf_counter()
    for person in people:
        person.begin(again=True)
    await asyncio.sleep(seconds)
    for person in people:
        person.end()
    await last_answers(people)
    return together([person.tally for person in people]), time.perf_counter() - began


async def open_loop(rates: Sequence[tuple[Person, float]], seconds: float) -> float:
    """Each sends at a rate of messages per second, whatever becomes of them; gives the seconds until the last answer.

    The first messages are spread over the time between two, so that they do not come all at once.
    """
    for person, _ in rates:
        person.begin(again=False)
    began = time.perf_counter()
    due = [(began + (n + 0.5) / len(rates) / rate, n) for n, (_, rate) in enumerate(rates) if rate > 0]
    heapq.heapify(due)
    end = began + seconds
    while due[0][0] < end:
        now = time.perf_counter()
        while due[0][0] <= now:
            at, n = due[0]
            person, rate = rates[n]
            person.send()
            heapq.heapreplace(due, (at + 1 / rate, n))
        await asyncio.sleep(_STEP)
    await last_answers([person for person, _ in rates])
    return time.perf_counter() - began


async def last_answers(people: Sequence[Person]) -> None:
    """Wait until nobody waits for an answer."""
    deadline = time.perf_counter() + _LAST_ANSWERS
    while any(person.waiting for person in people) and time.perf_counter() < deadline:
        await asyncio.sleep(5 * _STEP)
