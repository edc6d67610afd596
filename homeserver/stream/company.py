# SPDX-License-Identifier: Apache-2.0
"""Whether there are processes on this database that do not share this one's memory: servers on other machines.

While there are none, nothing needs to be asked before a request is answered. So a process that comes makes itself
known before it serves, and waits until each of the others has answered that it knows. One that does not answer has lost
its lease by the time the wait is over, or has looked at the table since. A process that could not renew its own lease
in time knows nothing any more and takes it that there are others.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import LoopingCall

from homeserver.needs import Protocol
from storage.server_processes import CHANNEL, ServerProcess

logger = logging.getLogger(__name__)

LEASE = 10.0
"""Seconds that a process is taken to be alive after it said so."""
RENEW = 3.0
"""Seconds between its saying so."""
UNSURE = 7.0
"""Seconds without having been able to, after which others may have come unnoticed."""


class Processes(Protocol):
    """`storage.server_processes.ServerProcessStore` is one."""

    def renew(
        self, host: str | None, pid: int, seconds: float, *, retry: bool = False
    ) -> Awaitable[tuple[bool, list[ServerProcess]]]: ...

    def bury(self, origins: Sequence[str]) -> Awaitable[None]: ...

    def leave(self) -> Awaitable[None]: ...


Notify = Callable[[str, Sequence[str]], Awaitable[object]]
"""`notify(channel, payloads)`: tells all processes, this one too."""


class OtherCompanies:
    """One per process that may have others beside it."""

    def __init__(
        self,
        *,
        reactor: Any,
        store: Processes,
        notify: Notify,
        origin: str,
        company: str,
        found: Callable[[bool], None],
        learn: Callable[[str, int], None],
        forgotten: Callable[[], None],
    ) -> None:
        """`found` is told whether there are others, whenever that was looked at; `learn`, at the start, of the serial
        that each of them had told before (`hearing.py`); `forgotten` that notifications were missed."""
        self._reactor = reactor
        self._store = store
        self._notify = notify
        self._origin = origin
        self._company = company
        self._hellos = 0
        self._found = found
        self._learn = learn
        self._forgotten = forgotten
        self._host = _host()
        self._renewed = 0.0
        self._forgotten_at = float("-inf")
        """When this process last found that it may have been, in seconds."""
        self._unsaid = False
        """Whether the last attempt to say that this process is alive failed, nobody knows how far it got."""
        self._unseen: set[str] | None = None
        self._all_seen: Deferred[None] | None = None
        self._loop: LoopingCall = LoopingCall(lambda: Deferred.fromCoroutine(self._tick()))
        self._loop.clock = reactor
        self._ticking: Deferred[LoopingCall] | None = None

    async def start(self) -> None:
        """Return once every other process knows of this one. `heard` must be called by now, and nothing be served."""
        self._renewed, hellos = self._reactor.seconds(), self._hellos
        _, found = await self._store.renew(self._host, os.getpid(), LEASE, retry=True)
        dead = [each.origin for each in found if self._is_dead(each)]
        if dead:
            await self._store.bury(dead)
        others = [each for each in found if each.origin not in dead]
        for each in others:
            self._learn(each.origin, each.told)
        self._found(bool(others) or hellos != self._hellos)  # somebody may have come since that was read
        if not others:
            await self._notify(CHANNEL, (self._hello,))  # should somebody have been forgotten
        else:
            self._unseen = {each.origin for each in others}
            self._all_seen = Deferred()
            await self._notify(CHANNEL, (self._hello,))
            try:
                await self._all_seen.addTimeout(LEASE, self._reactor)
            except TimeoutError:
                logger.warning(
                    "processes that do not answer are taken to be gone: %s", ", ".join(self._unseen)
                )
            self._unseen = self._all_seen = None
        self._ticking = self._loop.start(RENEW, now=False)

    async def stop(self) -> None:
        """Be known no more; the others are to hear it at their next look."""
        if self._loop.running:
            self._loop.stop()
        if self._ticking is not None:
            await self._ticking
            await self._store.leave()

    def heard(self, payload: str) -> None:
        """A notification of `CHANNEL`."""
        kind, origin, *by = payload.split(" ")
        if kind == "hello" and by != [self._company]:
            self._hellos += 1
            self._found(True)
            work = Deferred.fromCoroutine(self._answer(origin))
            work.addErrback(
                lambda failure: logger.error("could not answer a process", exc_info=failure.value)
            )
        elif kind == "seen" and origin == self._origin:
            if self._unseen is None:  # by somebody who was not in the table when this process looked
                self._hellos += 1
                self._found(True)
                return
            self._unseen.difference_update(by)
            if not self._unseen and self._all_seen is not None and not self._all_seen.called:
                self._all_seen.callback(None)

    @property
    def _hello(self) -> str:
        return f"hello {self._origin} {self._company}"

    async def _answer(self, origin: str) -> None:
        await self._notify(CHANNEL, (f"seen {origin} {self._origin}",))

    async def _tick(self) -> None:
        begun, hellos = self._reactor.seconds(), self._hellos
        if begun - self._renewed > UNSURE:
            self._found(True)
        try:
            was_forgotten, others = await self._store.renew(self._host, os.getpid(), LEASE)
        except Exception as error:
            logger.warning("this process could not say that it is alive: %s", error)
            self._unsaid = True
            return
        self._renewed = begun
        if was_forgotten or self._unsaid:
            # By a crash of the database, say. Who is not in the table is notified of nothing.
            logger.warning("this process may have been forgotten; it reads up what it was not told")
            self._unsaid = False
            self._forgotten_at = begun
            self._forgotten()
        if hellos == self._hellos:  # else somebody may have come since that was read
            # With this process the others may have been forgotten, and not have said yet that they are alive.
            unsure = begun - self._forgotten_at <= LEASE
            self._found(unsure or any(not self._is_dead(each) for each in others))

    def _is_dead(self, process: ServerProcess) -> bool:
        """Whether it is known to have ended, though its lease has not."""
        return (
            process.host is not None
            and process.host == self._host
            and not Path(f"/proc/{process.pid}").exists()
        )


def _host() -> str | None:
    """Names what process ids are relative to: this run of this kernel, and the container in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
