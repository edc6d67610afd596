# SPDX-License-Identifier: Apache-2.0
"""A serving process from within: what is built and started in which order, and how it winds down.

Owns the same for a server of one process and for each of many. The database is there already (`premises`); signals,
what is printed and how processes are looked after are `process`'s and `workers`'.
Stop: long-polls return, requests in flight finish, services end, commits land.
"""

from __future__ import annotations

import gc
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import psycopg2
from msgspec import Struct
from prometheus_client import REGISTRY
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.app.core import Core, Ground, build_core
from homeserver.app.elsewhere import nowhere_else
from homeserver.app.endpoints import build_routes
from homeserver.app.freed_memory import FreedMemory
from homeserver.app.overload import Overload, build_overload
from homeserver.app.premises import Secrets, sentence
from homeserver.app.services import Services, build_services
from homeserver.app.shares import CacheFigures
from homeserver.config import Config, StartRefused
from homeserver.observability import metrics
from homeserver.observability.access_log import AccessLog
from homeserver.observability.metrics import HttpMetrics
from homeserver.observability.storage_figures import StorageFigures
from homeserver.outgoing import OutgoingClient, make_client
from homeserver.rooms.engine.recommending import NoPolicyServers
from homeserver.siblings import Neighbourhood
from homeserver.web.bucket_table import BucketTable
from homeserver.web.clock import Clock
from homeserver.web.fair_port import Crowd
from homeserver.web.listeners import WebServer
from storage.database import DatabaseFailure
from storage.migrate import MigrationError, check_version
from storage.storage_report import StorageStore

if TYPE_CHECKING:  # loaded where it is switched on: a twelfth of the memory of a server that nobody uses
    from homeserver.app.federation import Federation
    from homeserver.calls.echo.service import Echo

logger = logging.getLogger(__name__)

GRACE = 20.0
"""Seconds that requests in flight get to finish when the server stops."""
LINGER = 10.0
"""Seconds that idle connections get for one more request where another process takes this one's place."""
ENDING = 15.0
"""Seconds that services, federation and commits get together after that: a database that hangs must not hold the stop
up."""
LEAST = 3.0
"""Seconds that each of them gets in any case, whatever those before it took."""
ABANDONED = 1.0
"""Seconds that each gets where the database is gone for good."""

Exposition = Callable[[], Awaitable[bytes]]
"""Gives all figures in Prometheus' text format."""


async def own_figures() -> bytes:
    """The figures of this process."""
    return metrics.render(REGISTRY)


class Company(Struct, frozen=True, kw_only=True):
    """What a process among several was given by their parent."""

    siblings: Neighbourhood
    crowd: Crowd
    sockets: Sequence[socket.socket]
    """One per listener of the configuration, in its order."""
    figures: Exposition
    """Gives the figures of all of them."""
    limits: BucketTable


class Server:
    """What serves in this process. Starts once and stops once."""

    def __init__(
        self,
        reactor: Any,
        config: Config,
        access_log: AccessLog,
        *,
        dsn: str,
        secrets: Secrets,
        company: Company | None = None,
    ) -> None:
        """Without `company` the process is alone, and opens its listeners itself."""
        self._reactor = reactor
        self._config = config
        self._access_log = access_log
        self._dsn = dsn
        self._secrets = secrets
        self._company = company
        self._core: Core | None = None
        self._http: OutgoingClient | None = None
        self._services: Services | None = None
        self._echo: Echo | None = None
        self._federation: Federation | None = None
        self._overload: Overload | None = None
        self._storage: StorageFigures | None = None
        self._freed_memory = FreedMemory(reactor)
        self._web: WebServer | None = None
        self._replaced = False

    @property
    def web(self) -> WebServer:
        """The listeners, once it has started."""
        assert self._web is not None
        return self._web

    @property
    def services(self) -> Services:
        """The services, once it has started."""
        assert self._services is not None
        return self._services

    async def start(self) -> None:
        """Build everything and accept requests. Raises StartRefused, and what goes wrong besides (`refusal`)."""
        _forget_loading()
        config, reactor, company = self._config, self._reactor, self._company
        signing_key = self._secrets.signing_key
        ground = Ground.open(reactor, self._dsn, None if company is None else company.siblings)
        if company is not None:
            # Their parent brought the schema up to date when it started. The code on disk may be newer by now, where
            # this worker follows one that died before the server was reloaded.
            try:
                await check_version(ground.database)
            except MigrationError:
                await ground.database.close()
                raise
        http = self._http = make_client(reactor, config.federation)
        REGISTRY.register(http.metrics)
        reach = None
        if config.federation.enabled:
            from homeserver.app.federation import build_federation, build_links
            from homeserver.app.reach import build_reach

            reach = await build_reach(reactor, config, ground, signing_key, http)
        policy_servers = NoPolicyServers() if reach is None else reach.policy_servers
        core = self._core = await build_core(reactor, config, ground, signing_key, policy_servers)
        links = None if reach is None else await build_links(reactor, config, core, signing_key, reach)
        elsewhere = nowhere_else(config, core) if links is None else links.elsewhere
        limits_of_all = None if company is None else company.limits
        services = self._services = build_services(
            reactor,
            config,
            core,
            http,
            self._secrets.registration_secret,
            elsewhere=elsewhere,
            limits_of_all=limits_of_all,
        )
        await services.start()
        if config.echo_user_id is not None:
            from homeserver.app.echo import start_echo

            self._echo = await start_echo(reactor, config, core, services)
        overload = self._overload = build_overload(reactor, config, core, services)
        overload.start()
        figures = own_figures if company is None else company.figures
        routes = build_routes(
            reactor,
            config,
            core,
            services,
            turns=overload.admission,
            figures=figures,
            replaced=lambda: self._replaced,
        )
        if links is not None:
            federation = self._federation = build_federation(
                reactor, config, core, links, services, limits_of_all=limits_of_all
            )
            routes += federation.routes
            await federation.start()
        http_metrics = HttpMetrics()
        REGISTRY.register(http_metrics)
        REGISTRY.register(core.database.metrics)
        elsewhere_sizes = {} if links is None else links.cache_sizes
        REGISTRY.register(CacheFigures({**services.cache_sizes, **elsewhere_sizes}))
        storage = self._storage = StorageFigures(reactor, StorageStore(core.database).parts)
        REGISTRY.register(storage)
        storage.start()
        web = self._web = WebServer(
            reactor,
            routes=routes,
            authenticator=services.authenticator,
            server_authenticator=None if self._federation is None else self._federation.authentication,
            limits=services.limits,
            metrics=http_metrics,
            access_log=self._access_log,
            max_body=int(config.limits.max_request_body),
            spools=services.media.blobs.spools,
            trusted_proxies=config.trusted_proxies,
            hearing=core.hearing,
            admission=overload.admission,
            crowd=None if company is None else company.crowd,
        )
        sockets = [None] * len(config.listeners) if company is None else company.sockets
        for listener, shared in zip(config.listeners, sockets, strict=True):
            web.listen(listener, shared)
        _settle_garbage_collection()
        self._freed_memory.start()

    async def stop(self, *, replaced: bool = False, abandoned: bool = False) -> None:
        """Wind down whatever was started. `replaced`: another process serves in this one's place, so that nobody
        need notice: connections get their next answer here, and are told to come anew. `abandoned`: the database has
        ended already, so that nothing is worth a wait.
        """
        self._replaced = replaced
        self._freed_memory.stop()
        grace, ending, least = (ABANDONED,) * 3 if abandoned else (GRACE, ENDING, LEAST)
        if self._web is not None:
            linger = LINGER if replaced else 0.0
            await self._attempt("requests", self._web.stop(grace, linger=linger), linger + grace + ending)
        if self._overload is not None:
            self._overload.stop()
        if self._storage is not None:
            self._storage.stop()
        end: float = self._reactor.seconds() + ending

        def left() -> float:
            remaining: float = end - self._reactor.seconds()
            return max(remaining, least)

        if self._echo is not None:
            await self._attempt("calls", self._echo.stop(), left())
        if self._services is not None:
            await self._attempt("services", self._services.stop(), left())
        if self._federation is not None:
            await self._attempt("federation", self._federation.stop(), left())
        if self._http is not None:
            self._http.close()
        if self._core is not None:
            await self._attempt("commits", self._core.stop(), left())
        logger.info("stopped")

    async def _attempt(self, what: str, work: Coroutine[Any, Any, None], longest: float) -> None:
        await attempt(self._reactor, what, work, longest)


async def attempt(clock: Clock, what: str, work: Coroutine[Any, Any, None], longest: float) -> None:
    """One step of the stop, cancelled after so many seconds. Whatever becomes of it, the next one is due: a step that
    goes on all the same, with what it does after the part that was cancelled, is left at it.
    """
    ended: Deferred[object] = Deferred()

    def end(outcome: object) -> None:
        if not ended.called:
            ended.callback(outcome)

    def give_up() -> None:
        under_way.cancel()
        if not ended.called:
            ended.errback(TimeoutError(f"not within {longest:.0f} s"))

    under_way = Deferred.fromCoroutine(work)
    under_way.addBoth(end)
    timer = clock.callLater(longest, give_up)
    try:
        await ended
    except Exception as error:
        logger.error("the stop was not clean", exc_info=error, extra={"fields": {"step": what}})
    finally:
        if timer.active():
            timer.cancel()


def refusal(failure: Failure) -> StartRefused:
    """What an administrator is told of what ended the start; what is nobody's fault but ours is logged."""
    error = failure.value
    if isinstance(error, StartRefused):
        return error
    if isinstance(error, MigrationError):
        return StartRefused(f"the database cannot be used: {error}")
    if isinstance(error, DatabaseFailure | psycopg2.Error):
        return StartRefused(f"the database does not work: {sentence(error)}")
    logger.critical("the server could not start", exc_info=error)
    return StartRefused("the server could not start; the log above says why")


def _forget_loading() -> None:
    """Free what only the loading of modules needed, so that what is built now takes its place."""
    sys.path_importer_cache.clear()  # the names of all files beside those that were loaded
    gc.collect()


def _settle_garbage_collection() -> None:
    """What start-up made stays for good, so the collector need not look at it again; and looks less often.

    With the defaults a full collection holds the reactor for tens of milliseconds whenever a large room was read.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
