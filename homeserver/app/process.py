# SPDX-License-Identifier: Apache-2.0
"""The life of a server of one process: what is started in which order, what is printed, and the clean stop.

Start: whether the listeners are free, the files of `data_dir`, the database (its own if none is configured),
migrations, core, services, listeners: what can be refused comes first, and the cheapest before anything is touched.
The line `ready: …` on standard output says that requests are accepted; the log goes to standard error.
Stop, on SIGTERM or Ctrl-C: long-polls return, requests in flight finish, commits land, then the database ends.
"""

from __future__ import annotations

import faulthandler
import logging
import os
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from homeserver import __version__
from homeserver.app.freed_memory import use_one_heap
from homeserver.app.open_files import allow_open_files
from homeserver.app.premises import Premises, Secrets
from homeserver.app.reactor import the_reactor
from homeserver.app.server import Server, refusal
from homeserver.app.service_manager import ServiceManager
from homeserver.app.stop_signals import StopRequested, StopSignals
from homeserver.app.welcome import FirstAccountCommand, print_ready, print_welcome
from homeserver.config import Config, StartRefused
from homeserver.observability.access_log import AccessLog
from homeserver.observability.logging import set_up
from homeserver.web.listeners import check_listener

logger = logging.getLogger(__name__)

WATCH = 1.0
"""Seconds between looks at the embedded database."""


def run_server(config: Config, first_account_command: FirstAccountCommand) -> None:
    """Run until SIGTERM or SIGINT. Raises StartRefused, saying why, if the server cannot start or go on."""
    use_one_heap()
    faulthandler.enable()  # of a crash, and of a process that hangs, the stack is all there is to know
    reactor = the_reactor()
    output = set_up(level=config.logging.level, form=config.logging.format)
    output.buffer(reactor.callLater)
    try:
        _Process(reactor, config, AccessLog(output, config.logging.format), first_account_command).run()
    except StopRequested:
        logger.info("stopped before the start was complete")
    finally:
        output.close()


class _Process:
    """One start and stop."""

    def __init__(
        self,
        reactor: Any,
        config: Config,
        access_log: AccessLog,
        first_account_command: FirstAccountCommand,
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._access_log = access_log
        self._first_account_command = first_account_command
        self._signals = StopSignals(reactor)
        self._premises = Premises(config, self._signals.check)
        self._starting: Deferred[None] | None = None
        self._server: Server | None = None
        self._watch: LoopingCall | None = None
        self._manager = ServiceManager.take_from(os.environ)
        self._beating = LoopingCall(self._manager.alive)
        self._beating.clock = reactor
        self._stopping = False
        self._failure: StartRefused | None = None

    def run(self) -> None:
        """Blocks for as long as the server runs."""
        config = self._config
        self._signals.install()
        self._signals.explain_hangup()
        allow_open_files(config.limits.open_files)
        try:
            for listener in config.listeners:
                check_listener(listener)
            secrets, dsn = self._premises.open()
            self._reactor.callWhenRunning(self._begin, lambda: self._start(dsn, secrets))
            self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)
            self._reactor.run(installSignalHandlers=False)
        finally:
            self._signals.ignore()
            self._premises.close()
        if self._failure is not None:
            raise self._failure

    # Start.

    def _begin(self, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            self._signals.check()
        except StopRequested:  # between the last look and the reactor's first turn
            self._reactor.stop()
            return
        self._starting = Deferred.fromCoroutine(start())
        self._starting.addErrback(self._give_up)

    def _give_up(self, failure: Failure) -> None:
        if not self._stopping:  # else the stop ended it
            self._end(refusal(failure))

    def _end(self, failure: StartRefused) -> None:
        self._failure = failure
        self._reactor.stop()

    async def _start(self, dsn: str, secrets: Secrets) -> None:
        server = self._server = Server(
            self._reactor, self._config, self._access_log, dsn=dsn, secrets=secrets
        )
        await server.start()
        if self._premises.is_looked_after:
            self._watch = LoopingCall(self._look_after_database)
            self._watch.start(WATCH, now=False)
        services = server.services
        nobody_yet = await services.nobody_yet()
        print_welcome(
            self._premises.made,
            nobody_yet=nobody_yet,
            command=self._first_account_command(
                [(opened.listener, opened.port.getHost().port) for opened in server.web.open]
            ),
            token=await services.first_account_token() if nobody_yet else None,
        )
        print_ready(self._config.server_name, [opened.address for opened in server.web.open])
        self._manager.ready()
        if self._manager.interval is not None:
            self._beating.start(self._manager.interval)
        logger.info("serving", extra={"fields": {"version": __version__, "pid": os.getpid()}})

    def _look_after_database(self) -> None:
        if self._stopping:
            return
        try:
            self._premises.revive()
        except StartRefused as error:
            self._end(error)

    # Stop.

    def _stop(self) -> Deferred[None]:
        self._stopping = True
        self._manager.stopping()
        self._signals.ignore()
        return Deferred.fromCoroutine(self._wind_down())

    async def _wind_down(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        if self._watch is not None and self._watch.running:
            self._watch.stop()
        if self._server is not None:
            await self._server.stop()
