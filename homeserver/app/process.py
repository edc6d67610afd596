# SPDX-License-Identifier: Apache-2.0
"""The life of a server process: what is started in which order, what is printed, and the clean stop.

Start: logs, keys and secrets, database (its own if none is configured), migrations, core, services, listeners. The
line `ready: …` on standard output says that requests are accepted; everything else goes to the log on standard error.
Stop, on SIGTERM or Ctrl-C: long-polls return, requests in flight finish, commits land, then the database ends.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psycopg2
from prometheus_client import REGISTRY
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from homeserver import __version__
from homeserver.app.core import Core, build_core
from homeserver.app.endpoints import build_routes
from homeserver.app.services import Services, build_services
from homeserver.config import Config, StartRefused
from homeserver.config.registration_secret import load_or_create_registration_secret
from homeserver.config.signing_key import load_or_create_signing_key
from homeserver.observability.access_log import AccessLog
from homeserver.observability.logging import set_up
from homeserver.observability.metrics import HttpMetrics
from homeserver.web.listeners import WebServer
from storage.database import DatabaseFailure
from storage.embedded import EmbeddedPostgres, EmbeddedPostgresError
from storage.migrate import MigrationError, migrate

logger = logging.getLogger(__name__)

GRACE = 20.0
"""Seconds that requests in flight get to finish when the server stops."""
WATCH = 1.0
"""Seconds between looks at the embedded database."""


def run_server(config: Config) -> None:
    """Run until SIGTERM or SIGINT. Raises StartRefused, saying why, if the server cannot start."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    if config.workers != 1:
        raise StartRefused(
            "workers: this version runs one process per configuration; start another beside it"
        )
    first_start = not config.data_dir.exists()
    output = set_up(level=config.logging.level, form=config.logging.format)
    output.buffer(reactor.callLater)
    try:
        process = _Process(reactor, config, AccessLog(output, config.logging.format), first_start=first_start)
        process.run()
    finally:
        output.close()


class _Process:
    """One start and stop."""

    def __init__(self, reactor: Any, config: Config, access_log: AccessLog, *, first_start: bool) -> None:
        self._reactor = reactor
        self._config = config
        self._access_log = access_log
        self._first_start = first_start
        self._embedded: EmbeddedPostgres | None = None
        self._core: Core | None = None
        self._services: Services | None = None
        self._web: WebServer | None = None
        self._watch: LoopingCall | None = None
        self._stopping = False
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Blocks for as long as the server runs."""
        config = self._config
        config.data_dir.mkdir(parents=True, exist_ok=True)
        try:
            dsn = self._open_database()
            self._reactor.callWhenRunning(self._begin, dsn)
            self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)
            self._reactor.run(installSignalHandlers=True)
        finally:
            if self._embedded is not None:
                self._embedded.stop()
        if self._failure is not None:
            raise self._failure

    # Start.

    def _open_database(self) -> str:
        """The connection string of a database that is up to date."""
        dsn = self._config.database.url
        try:
            if dsn is None:
                self._embedded = EmbeddedPostgres(self._config.data_dir)
                dsn = self._embedded.start()
            migrate(dsn)
        except EmbeddedPostgresError as error:
            raise StartRefused(str(error)) from error
        except MigrationError as error:
            raise StartRefused(f"the database cannot be used: {error}") from error
        except psycopg2.OperationalError as error:
            raise StartRefused(
                f"cannot connect to the database (database.url): {str(error).strip()}"
            ) from error
        return dsn

    def _begin(self, dsn: str) -> None:
        Deferred.fromCoroutine(self._start(dsn)).addErrback(self._give_up)

    def _give_up(self, failure: Failure) -> None:
        error: BaseException | None = failure.value
        if not isinstance(error, StartRefused):
            logger.critical("the server could not start", exc_info=error)
        if isinstance(error, DatabaseFailure | psycopg2.Error):
            error = StartRefused(f"the database does not work: {error}")
        self._failure = error
        self._reactor.stop()

    async def _start(self, dsn: str) -> None:
        config, reactor = self._config, self._reactor
        signing_key = load_or_create_signing_key(config.data_dir)
        registration_secret = load_or_create_registration_secret(config)
        core = self._core = await build_core(reactor, config, dsn, signing_key)
        services = self._services = build_services(reactor, config, core, registration_secret)
        await services.start()
        metrics = HttpMetrics()
        REGISTRY.register(metrics)
        REGISTRY.register(core.database.metrics)
        web = self._web = WebServer(
            reactor,
            routes=build_routes(reactor, config, core, services, REGISTRY),
            authenticator=services.authenticator,
            limits=services.limits,
            metrics=metrics,
            access_log=self._access_log,
            max_body=int(config.limits.max_request_body),
            trusted_proxies=config.trusted_proxies,
        )
        addresses = [web.listen(listener).address for listener in config.listeners]
        if self._embedded is not None:
            self._watch = LoopingCall(self._look_after_database)
            self._watch.start(WATCH, now=False)
        await self._welcome(services)
        _settle_garbage_collection()
        print(f"ready: {config.server_name} on {', '.join(addresses)}", flush=True)  # noqa: T201
        logger.info("serving", extra={"fields": {"version": __version__, "pid": os.getpid()}})

    async def _welcome(self, services: Services) -> None:
        """Tell a new administrator what was made and how to make the first account."""
        config = self._config
        if self._first_start:
            made = [f"signing key in {config.data_dir / 'signing.key'}"]
            if self._embedded is not None:
                made.append(f"database in {config.data_dir / 'postgres'}")
            print(f"first start: made the {' and the '.join(made)}", flush=True)  # noqa: T201
        token = await services.first_account_token()
        if token is not None:
            command = _ready_made_command()
            print(f"no account yet; make the first one with:\n\n    {command}\n", flush=True)  # noqa: T201
            print(f"or register in a client with the one-time token {token}", flush=True)  # noqa: T201

    def _look_after_database(self) -> None:
        """The embedded database may have been killed; what it had committed is in its files."""
        assert self._embedded is not None
        if self._stopping:
            return
        try:
            if self._embedded.revive_if_dead():
                logger.critical("the embedded database had ended; it was started again")
        except EmbeddedPostgresError:
            logger.critical("the embedded database had ended and does not start", exc_info=True)
            self._reactor.stop()

    # Stop.

    def _stop(self) -> Deferred[None]:
        self._stopping = True
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # a second one changes nothing: the stop is bounded anyway
        return Deferred.fromCoroutine(self._wind_down()).addErrback(
            lambda failure: logger.error("the stop was not clean", exc_info=failure.value)
        )

    async def _wind_down(self) -> None:
        if self._watch is not None and self._watch.running:
            self._watch.stop()
        if self._web is not None:
            await self._web.stop(GRACE)
        if self._services is not None:
            await self._services.stop()
        if self._core is not None:
            await self._core.stop()
        logger.info("stopped")


def _settle_garbage_collection() -> None:
    """What start-up made stays for good, so the collector need not look at it again; and looks less often.

    With the defaults a full collection holds the reactor for tens of milliseconds whenever a large room was read.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


def _ready_made_command() -> str:
    """`lares register-user`, as it must be typed here."""
    program = Path(sys.argv[0])
    lares = program if program.name == "lares" else Path(sys.executable).with_name("lares")
    try:
        shown = lares.absolute().relative_to(Path.cwd())
    except ValueError:
        shown = lares
    return f"{shown} register-user alice"
