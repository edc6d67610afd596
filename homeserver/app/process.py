# SPDX-License-Identifier: Apache-2.0
"""The life of a server process: what is started in which order, what is printed, and the clean stop.

Start: whether the listeners are free, the files of `data_dir`, the database (its own if none is configured),
migrations, core, services, listeners: what can be refused comes first, and the cheapest before anything is touched.
The line `ready: …` on standard output says that requests are accepted; the log goes to standard error.
Stop, on SIGTERM or Ctrl-C: long-polls return, requests in flight finish, commits land, then the database ends.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import psycopg2
from prometheus_client import REGISTRY
from psycopg2.extensions import parse_dsn
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from homeserver import __version__
from homeserver.app.core import Core, Ground, build_core
from homeserver.app.echo import start_echo
from homeserver.app.elsewhere import nowhere_else
from homeserver.app.endpoints import build_routes
from homeserver.app.federation import Federation, build_federation, build_links
from homeserver.app.open_files import allow_open_files
from homeserver.app.reach import build_reach
from homeserver.app.services import Services, build_services
from homeserver.app.stop_signals import StopRequested, StopSignals
from homeserver.calls.echo.service import Echo
from homeserver.config import Config, StartRefused
from homeserver.config import registration_secret as registration_secrets
from homeserver.config import signing_key as signing_keys
from homeserver.config.sections import Listener
from homeserver.observability.access_log import AccessLog
from homeserver.observability.logging import set_up
from homeserver.observability.metrics import HttpMetrics
from homeserver.outgoing import OutgoingClient, make_client
from homeserver.protocol.signing import SigningKey
from homeserver.rooms.engine.recommending import NoPolicyServers
from homeserver.web.listeners import WebServer, check_listener
from storage.database import DatabaseFailure
from storage.embedded import EmbeddedPostgres, EmbeddedPostgresError
from storage.interruptible import interruptible
from storage.migrate import MigrationError, migrate

logger = logging.getLogger(__name__)

GRACE = 20.0
"""Seconds that requests in flight get to finish when the server stops."""
STEP = 15.0
"""Seconds that services, and then commits, get to end after that: a database that hangs must not hold the stop up."""
WATCH = 1.0
"""Seconds between looks at the embedded database."""

FirstAccountCommand = Callable[[Sequence[tuple[Listener, int]]], str | None]
"""From the listeners and their ports to what an administrator types to make an account, if that can be done there."""


def run_server(config: Config, first_account_command: FirstAccountCommand) -> None:
    """Run until SIGTERM or SIGINT. Raises StartRefused, saying why, if the server cannot start or go on."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    if config.workers != 1:
        raise StartRefused(
            f"workers: {config.workers} is not possible in this version, which runs one process per configuration; "
            "set it to 1, and start further servers on the same database.url for more"
        )
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
        self._made: list[str] = []
        self._embedded: EmbeddedPostgres | None = None
        self._starting: Deferred[None] | None = None
        self._core: Core | None = None
        self._http: OutgoingClient | None = None
        self._services: Services | None = None
        self._echo: Echo | None = None
        self._federation: Federation | None = None
        self._web: WebServer | None = None
        self._watch: LoopingCall | None = None
        self._stopping = False
        self._failure: StartRefused | None = None

    def run(self) -> None:
        """Blocks for as long as the server runs."""
        config = self._config
        self._signals.install()
        allow_open_files(config.limits.open_files)
        try:
            for listener in config.listeners:
                check_listener(listener)
            with interruptible(self._signals.check):
                signing_key, registration_secret = self._open_files()
                dsn = self._open_database()
                self._signals.check()
            self._reactor.callWhenRunning(
                self._begin, lambda: self._start(dsn, signing_key, registration_secret)
            )
            self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)
            self._reactor.run(installSignalHandlers=False)
        finally:
            self._signals.ignore()
            if self._embedded is not None:
                self._embedded.stop()
        if self._failure is not None:
            raise self._failure

    # Start.

    def _open_files(self) -> tuple[SigningKey, str]:
        """The signing key and the registration secret, made if they are not there yet."""
        config = self._config
        key_path = config.data_dir / signing_keys.FILE_NAME
        secret_path = config.data_dir / registration_secrets.FILE_NAME
        had_key, had_secret = key_path.exists(), secret_path.exists()
        try:
            config.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartRefused(
                f"cannot make the folder {config.data_dir} (data_dir): {error.strerror}"
            ) from error
        signing_key = signing_keys.load_or_create_signing_key(config.data_dir)
        secret = registration_secrets.load_or_create_registration_secret(config)
        if not had_key:
            self._made.append(f"the signing key in {key_path}")
        if not had_secret and secret_path.exists():
            self._made.append(f"the registration secret in {secret_path}")
        return signing_key, secret

    def _open_database(self) -> str:
        """The connection string of a database that is up to date."""
        dsn = self._config.database.url
        if dsn is None:
            return self._open_embedded()
        try:
            place = _place(dsn)
            migrate(dsn)
        except MigrationError as error:
            raise StartRefused(f"the database cannot be used: {error}") from error
        except psycopg2.errors.InsufficientPrivilege as error:
            raise StartRefused(
                f"the database cannot be used: {_sentence(error)}; the user of database.url must own the database"
            ) from error
        except psycopg2.Error as error:
            raise StartRefused(
                f"cannot use the database {place} (database.url): {_sentence(error)}"
            ) from error
        return dsn

    def _open_embedded(self) -> str:
        place = self._config.data_dir / "postgres"
        existed = place.exists()
        try:
            self._embedded = EmbeddedPostgres(self._config.data_dir)
            dsn = self._embedded.start(self._signals.check)
            migrate(dsn)
        except EmbeddedPostgresError as error:
            raise StartRefused(str(error)) from error
        except MigrationError as error:
            raise StartRefused(f"the database cannot be used: {error}") from error
        except psycopg2.Error as error:
            raise StartRefused(f"the embedded database does not work: {_sentence(error)}") from error
        if not existed:
            self._made.append(f"the database in {place}")
        return dsn

    def _begin(self, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            self._signals.check()
        except StopRequested:  # between the last look and the reactor's first turn
            self._reactor.stop()
            return
        self._starting = Deferred.fromCoroutine(start())
        self._starting.addErrback(self._give_up)

    def _give_up(self, failure: Failure) -> None:
        error = failure.value
        if self._stopping:
            return  # the stop ended it
        if isinstance(error, DatabaseFailure | psycopg2.Error):
            error = StartRefused(f"the database does not work: {_sentence(error)}")
        elif not isinstance(error, StartRefused):
            logger.critical("the server could not start", exc_info=error)
            error = StartRefused("the server could not start; the log above says why")
        self._end(error)

    def _end(self, failure: StartRefused) -> None:
        self._failure = failure
        self._reactor.stop()

    async def _start(self, dsn: str, signing_key: SigningKey, registration_secret: str) -> None:
        config, reactor = self._config, self._reactor
        ground = Ground.open(reactor, dsn)
        http = self._http = make_client(reactor, config.federation)
        REGISTRY.register(http.metrics)
        reach = (
            await build_reach(reactor, config, ground, signing_key, http)
            if config.federation.enabled
            else None
        )
        policy_servers = NoPolicyServers() if reach is None else reach.policy_servers
        core = self._core = await build_core(reactor, config, ground, signing_key, policy_servers)
        links = None if reach is None else await build_links(reactor, config, core, signing_key, reach)
        elsewhere = nowhere_else(config, core) if links is None else links.elsewhere
        services = self._services = build_services(
            reactor, config, core, http, registration_secret, elsewhere=elsewhere
        )
        await services.start()
        self._echo = await start_echo(reactor, config, core, services)
        routes = build_routes(reactor, config, core, services, REGISTRY)
        if links is not None:
            federation = self._federation = build_federation(reactor, config, core, links, services)
            routes += federation.routes
            await federation.start()
        metrics = HttpMetrics()
        REGISTRY.register(metrics)
        REGISTRY.register(core.database.metrics)
        web = self._web = WebServer(
            reactor,
            routes=routes,
            authenticator=services.authenticator,
            server_authenticator=None if self._federation is None else self._federation.authentication,
            limits=services.limits,
            metrics=metrics,
            access_log=self._access_log,
            max_body=int(config.limits.max_request_body),
            spools=services.media.blobs.spools,
            trusted_proxies=config.trusted_proxies,
        )
        addresses = [web.listen(listener).address for listener in config.listeners]
        if self._embedded is not None:
            self._watch = LoopingCall(self._look_after_database)
            self._watch.start(WATCH, now=False)
        await self._welcome(services, web)
        _settle_garbage_collection()
        print(f"ready: {config.server_name} on {', '.join(addresses)}", flush=True)  # noqa: T201
        logger.info("serving", extra={"fields": {"version": __version__, "pid": os.getpid()}})

    async def _welcome(self, services: Services, web: WebServer) -> None:
        """Tell a new administrator what was made and how to make the first account."""
        if self._made:
            *others, last = self._made
            print(f"made {', '.join(others)}{' and ' if others else ''}{last}", flush=True)  # noqa: T201
        if not await services.nobody_yet():
            return
        command = self._first_account_command(
            [(opened.listener, opened.port.getHost().port) for opened in web.open]
        )
        if command is not None:
            print(f"no account yet; make an administrator with:\n\n    {command}\n", flush=True)  # noqa: T201
        token = await services.first_account_token()
        if token is not None:
            print(f"or register in a client with the one-time token {token}", flush=True)  # noqa: T201

    def _look_after_database(self) -> None:
        """The embedded database may have been killed; what it had committed is in its files."""
        assert self._embedded is not None
        if self._stopping:
            return
        try:
            if self._embedded.revive_if_dead():
                logger.critical("the embedded database had ended; it was started again")
        except EmbeddedPostgresError as error:
            self._end(StartRefused(f"the embedded database had ended and does not start again: {error}"))

    # Stop.

    def _stop(self) -> Deferred[None]:
        self._stopping = True
        self._signals.ignore()
        return Deferred.fromCoroutine(self._wind_down())

    async def _wind_down(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        if self._watch is not None and self._watch.running:
            self._watch.stop()
        if self._web is not None:
            await self._attempt("requests", self._web.stop(GRACE), GRACE + STEP)
        if self._echo is not None:
            await self._attempt("calls", self._echo.stop(), STEP)
        if self._services is not None:
            await self._attempt("services", self._services.stop(), STEP)
        if self._federation is not None:
            await self._attempt("federation", self._federation.stop(), STEP)
        if self._http is not None:
            self._http.close()
        if self._core is not None:
            await self._attempt("commits", self._core.stop(), STEP)
        logger.info("stopped")

    async def _attempt(self, what: str, work: Coroutine[Any, Any, None], longest: float) -> None:
        """One step of the stop. Whatever becomes of it, the next one is due."""
        try:
            await Deferred.fromCoroutine(work).addTimeout(longest, self._reactor)
        except Exception as error:
            logger.error("the stop was not clean", exc_info=error, extra={"fields": {"step": what}})


def _settle_garbage_collection() -> None:
    """What start-up made stays for good, so the collector need not look at it again; and looks less often.

    With the defaults a full collection holds the reactor for tens of milliseconds whenever a large room was read.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


def _place(dsn: str) -> str:
    """Which database a URL means, without its password. Raises StartRefused if that can't be told."""
    # The texts of libpq's own errors may hold a piece of the password.
    wrong = StartRefused(
        "database.url is not a valid URL; special characters of the password must be percent-encoded"
    )
    try:
        parts = parse_dsn(dsn)
    except psycopg2.ProgrammingError:
        raise wrong from None
    port = str(parts.get("port", 5432))
    if not all(each.isdigit() for each in port.split(",") if each):  # several hosts have several
        raise wrong
    return f"{parts.get('dbname', '')!r} at {parts.get('host', 'the local socket')} port {port}"


def _sentence(error: BaseException) -> str:
    """What a database said, without the hints and excerpts that follow."""
    if isinstance(error, psycopg2.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return str(error).strip().partition("\n")[0].removeprefix("FATAL:").strip()
