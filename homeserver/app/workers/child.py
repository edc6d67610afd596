# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402 (signals come first)
"""A worker: `python -m homeserver.app.workers.child --number 0 --control 5`, started by `parent` and by nobody else.

Owns its life. It reads its `Orders` from the control connection, serves, and tells that it is ready or why it cannot
be. It winds down on SIGTERM and SIGINT as a server of one process does; when told to drain, so that its clients do not
notice; and when the control connection ends, because then the parent is gone, and nobody would look after it.
"""

from __future__ import annotations

import signal

# Ctrl-C, and what a terminal that closes sends, reach every process of the terminal. The parent blocked them for the
# time in which nobody here could answer them, and SIGHUP means nothing to a worker.
signal.signal(signal.SIGHUP, signal.SIG_IGN)

import faulthandler
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

from homeserver import __version__
from homeserver.app.freed_memory import use_one_heap
from homeserver.app.open_files import allow_open_files
from homeserver.app.premises import read_secrets
from homeserver.app.reactor import the_reactor
from homeserver.app.server import Company, Server, own_figures, refusal
from homeserver.app.stop_signals import StopRequested, StopSignals
from homeserver.app.workers.figures import WorkerFigures
from homeserver.app.workers.orders import DRAIN, Gone, Orders, read_line, say
from homeserver.app.workers.pulse import BEAT
from homeserver.app.workers.roster import Roster, Seat
from homeserver.config import Config, ConfigError, StartRefused
from homeserver.config.loader import take_over
from homeserver.observability.access_log import AccessLog
from homeserver.observability.logging import set_up
from homeserver.siblings import Siblings
from homeserver.web.bucket_table import BucketTable

logger = logging.getLogger("homeserver.app.workers.child")  # which is not what __name__ says

REFUSED = 3
"""Exit code of a worker that said why it cannot serve."""


class Worker:
    """One start and stop."""

    def __init__(
        self, reactor: Any, control: socket.socket, orders: Orders, config: Config, log: AccessLog
    ) -> None:
        self._reactor = reactor
        self._control = control
        self._orders = orders
        self._config = config
        roster = Roster(orders.roster, orders.seats)
        seat = Seat(roster, orders.number)
        self._beating = LoopingCall(seat.beat)
        self._beating.clock = reactor
        self._figures = WorkerFigures(
            reactor, meeting=orders.meeting, number=orders.number, roster=roster, own=own_figures
        )
        self._signals = StopSignals(reactor)
        self._sockets = [socket.socket(fileno=descriptor) for descriptor in orders.sockets]
        self._server = Server(
            reactor,
            config,
            log,
            dsn=orders.dsn,
            secrets=read_secrets(config),
            company=Company(
                siblings=Siblings.from_descriptor(orders.siblings, orders.number, orders.seats),
                crowd=seat,
                sockets=self._sockets,
                figures=self._figures.of_all,
                limits=BucketTable(orders.limits),
            ),
        )
        self._starting: Deferred[None] | None = None
        self._stopping = False
        self._replaced = False
        self._abandoned = False
        self.refused = False

    def run(self) -> None:
        """Blocks for as long as the worker serves."""
        self._signals.install()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
        self._reactor.addReader(_Control(self._control, self._told))
        self._reactor.callWhenRunning(self._begin)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)
        self._reactor.run(installSignalHandlers=False)

    def _begin(self) -> None:
        try:
            self._signals.check()
        except StopRequested:  # between the last look and the reactor's first turn
            self._end()
            return
        self._beating.start(BEAT)
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._give_up)

    async def _start(self) -> None:
        self._figures.start()
        await self._server.start()
        # The ports have their own, and close them when this process stops to accept.
        for inherited in self._sockets:
            inherited.close()
        services, welcomes = self._server.services, self._orders.welcomes
        nobody_yet = welcomes and await services.nobody_yet()
        token = await services.first_account_token() if nobody_yet else None
        self._say({"ready": {"welcomes": welcomes, "nobody_yet": nobody_yet, "token": token}})
        logger.info("serving", extra={"fields": {"version": __version__, "pid": os.getpid()}})

    def _give_up(self, failure: Failure) -> None:
        if not self._stopping:  # else the stop ended it
            self.refused = True
            self._say({"refused": str(refusal(failure))})
            self._end()

    def _say(self, message: dict[str, object]) -> None:
        try:
            say(self._control, message)
        except OSError:
            self._end()

    def _told(self, line: bytes | None) -> None:
        """A line of the parent's, or None when it is gone."""
        if line is None:
            if not self._stopping:
                logger.critical("the parent of this process is gone; it stops")
                self._abandoned = self._config.database.url is None  # an embedded one goes with the parent
            self._end()
        elif line == DRAIN:
            self._replaced = True
            self._end()

    def _end(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._signals.ignore()
            self._reactor.stop()

    def _stop(self) -> Deferred[None]:
        self._stopping = True
        self._signals.ignore()
        return Deferred.fromCoroutine(self._wind_down())

    async def _wind_down(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        await self._server.stop(replaced=self._replaced, abandoned=self._abandoned)
        await self._figures.stop()


@implementer(IReadDescriptor)
class _Control:
    """The control connection on the reactor."""

    def __init__(self, control: socket.socket, told: Any) -> None:
        control.setblocking(True)  # what is said here is short; what is heard is there when it is read
        self._control = control
        self._told = told
        self._received = b""

    def fileno(self) -> int:
        """Its descriptor."""
        return self._control.fileno()

    def logPrefix(self) -> str:  # noqa: N802 (Twisted's name)
        """Names it in Twisted's log."""
        return "control"

    def doRead(self) -> Exception | None:  # noqa: N802 (Twisted's name)
        """Something came; what is returned ends it."""
        data = self._control.recv(65536)
        self._received += data
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            self._told(line + b"\n")
        return None if data else Gone()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802 (Twisted's name)
        """The parent is gone, or this process ends."""
        self._told(None)


def main() -> int:
    """The worker's whole life; its exit code."""
    # By hand, since argparse would stay in memory. The number is for whoever looks at the processes.
    control = socket.socket(fileno=int(sys.argv[sys.argv.index("--control") + 1]))
    try:
        orders = Orders.decode(read_line(control))
    except (Gone, OSError):
        return 0
    use_one_heap()
    faulthandler.enable()  # of a crash, and of a worker that hangs, the stack is all there is to know
    reactor = the_reactor()
    written = orders.config
    try:
        config = take_over(written.text, source=written.source, folder=Path(written.folder))
    except ConfigError as error:
        say(control, {"refused": str(error)})
        return REFUSED
    output = set_up(level=config.logging.level, form=config.logging.format, worker=orders.number)
    output.buffer(reactor.callLater)
    try:
        allow_open_files(config.limits.open_files)
        log = AccessLog(output, config.logging.format, worker=orders.number)
        worker = Worker(reactor, control, orders, config, log)
        worker.run()
    except StartRefused as error:
        say(control, {"refused": str(error)})
        return REFUSED
    finally:
        output.close()
    return REFUSED if worker.refused else 0


if __name__ == "__main__":
    sys.exit(main())
