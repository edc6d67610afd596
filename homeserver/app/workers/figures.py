# SPDX-License-Identifier: Apache-2.0
"""`/metrics` of several workers: whoever is asked asks the others and puts all answers together.

Each worker tells its figures to whoever connects to a socket of its own that has no file (Linux' abstract names) and
runs as the same user; nothing is read from it. Who does not answer in `PATIENCE` seconds is left out. Every sample
gets a label `worker`, so that nothing is added up that should not be; figures of the whole server come without it.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from homeserver.app.workers.roster import Roster

logger = logging.getLogger(__name__)

PATIENCE: Final = 2.0
_MOST: Final = 16 * 2**20
_NAME: Final = re.compile(rb"[a-zA-Z_:][a-zA-Z0-9_:]*")

Render = Callable[[], Awaitable[bytes]]


class WorkerFigures:
    """Those of one worker and, through it, of all."""

    def __init__(self, reactor: Any, *, meeting: str, number: int, roster: Roster, own: Render) -> None:
        """`meeting`: what the names of all workers' sockets begin with."""
        self._reactor = reactor
        self._meeting = meeting
        self._number = number
        self._roster = roster
        self._own = own
        self._port: Any = None

    def start(self) -> None:
        """Answer the others from now on."""
        factory = Factory.forProtocol(lambda: _Teller(self._own))
        factory.noisy = False
        self._port = self._reactor.listenUNIX(self._place(self._number), factory)

    async def stop(self) -> None:
        """Answer nobody any more."""
        if self._port is not None:
            await self._port.stopListening()

    async def of_all(self) -> bytes:
        """What `/metrics` answers."""
        numbers = [number for number in self._roster.living() if number != self._number]
        asked = [Deferred.fromCoroutine(self._ask(number)) for number in numbers]
        parts = {self._number: await self._own()}
        for number, (told, answer) in zip(
            numbers, await DeferredList(asked, consumeErrors=True), strict=True
        ):
            if told:
                parts[number] = answer
        return merged(sorted(parts.items())) + self._whole()

    async def _ask(self, number: int) -> bytes:
        listener = _Listener()
        # Brings all of Twisted's plugins along, for what few workers are ever asked.
        from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol

        endpoint = UNIXClientEndpoint(self._reactor, self._place(number), timeout=PATIENCE)  # type: ignore[no-untyped-call]
        await connectProtocol(endpoint, listener).addTimeout(PATIENCE, self._reactor)  # type: ignore[no-untyped-call]
        try:
            return await listener.whole.addTimeout(PATIENCE, self._reactor)
        finally:
            listener.give_up()

    def _place(self, number: int) -> str:
        return f"\0{self._meeting}-{number}"

    def _whole(self) -> bytes:
        """The figures of no worker in particular."""
        roster = self._roster
        accepting = list(roster.accepting())
        lines = [
            "# HELP lares_workers Processes that accept connections.",
            "# TYPE lares_workers gauge",
            f"lares_workers {len(accepting)}",
            "# HELP lares_workers_wanted Processes there should be.",
            "# TYPE lares_workers_wanted gauge",
            f"lares_workers_wanted {roster.wanted}",
            "# HELP lares_worker_restarts_total Processes that died and were followed by another.",
            "# TYPE lares_worker_restarts_total counter",
            f"lares_worker_restarts_total {roster.restarts}",
            "# HELP lares_worker_connections Connections of clients that are open.",
            "# TYPE lares_worker_connections gauge",
            *(f'lares_worker_connections{{worker="{number}"}} {held}' for number, held, _ in accepting),
            "# HELP lares_worker_accepted_total Connections of clients that were accepted.",
            "# TYPE lares_worker_accepted_total counter",
            *(f'lares_worker_accepted_total{{worker="{number}"}} {count}' for number, _, count in accepting),
        ]
        return "\n".join(lines).encode() + b"\n"


def merged(parts: Iterable[tuple[int, bytes]]) -> bytes:
    """One exposition of many, by worker: what describes a figure comes once, before the samples of all."""
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for number, text in parts:
        label = b'worker="%d"' % number
        described: set[bytes] = set()
        family = b""
        for line in text.split(b"\n"):
            if line.startswith(b"# "):
                family = line.split(b" ", 3)[2]
                if family not in heads or family in described:
                    described.add(family)
                    heads.setdefault(family, []).append(line)
                samples.setdefault(family, [])
            elif line:
                samples.setdefault(family, []).append(_labelled(line, label))
    return b"".join(b"\n".join([*heads.get(family, ()), *lines]) + b"\n" for family, lines in samples.items())


def _labelled(line: bytes, label: bytes) -> bytes:
    """A sample with one label more. Its name ends where a brace or a space begins; values of labels hold anything."""
    name = _NAME.match(line)
    assert name is not None, "not a sample"
    rest = line[name.end() :]
    if rest.startswith(b"{}"):
        return name[0] + b"{" + label + rest[1:]
    if rest.startswith(b"{"):
        return name[0] + b"{" + label + b"," + rest[1:]
    return name[0] + b"{" + label + b"}" + rest


class _Teller(Protocol):
    """Tells this worker's figures to another worker, whatever that says, and ends."""

    def __init__(self, own: Render) -> None:
        self._own = own

    def connectionMade(self) -> None:  # noqa: N802 (Twisted's name)
        transport: Any = self.transport
        if _user_of(transport.socket) not in {os.geteuid(), 0}:
            transport.abortConnection()
            return
        Deferred.fromCoroutine(self._tell()).addErrback(self._failed)

    async def _tell(self) -> None:
        transport: Any = self.transport
        transport.write(await self._own())
        transport.loseConnection()

    def _failed(self, failure: Failure) -> None:
        logger.error("figures could not be told", exc_info=failure.value)
        transport: Any = self.transport
        transport.abortConnection()


class _Listener(Protocol):
    """Takes what a `_Teller` tells."""

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred()
        self._received = bytearray()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 (Twisted's name)
        self._received += data
        if len(self._received) > _MOST:
            self.give_up()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # noqa: N802
        if self.whole.called:
            return
        if isinstance(reason.value, ConnectionDone):
            self.whole.callback(bytes(self._received))
        else:
            self.whole.errback(reason)

    def give_up(self) -> None:
        """End it, if it has not ended."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()


def _user_of(connection: socket.socket) -> int:
    """As whom the process at the other end runs."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user: int = struct.unpack("3i", packed)[1]
    return user
