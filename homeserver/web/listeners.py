# SPDX-License-Identifier: Apache-2.0
"""Listening: a site per configured listener, TLS, and a clean end.

Owns which routes a listener serves, its port, and the order of stopping: no new connections, long-polls return,
requests in flight finish within a grace, what is left is cut off.
"""

import resource
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from msgspec import Struct
from OpenSSL import SSL
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer  # type: ignore[import-untyped]

from homeserver.config import StartRefused
from homeserver.config.sections import Listener, Tls
from homeserver.observability.access_log import AccessLog
from homeserver.observability.metrics import HttpMetrics
from homeserver.spooling import SpoolRoom
from homeserver.web.addresses import Network, ProxyTrust
from homeserver.web.admission import Admission
from homeserver.web.authentication import Authenticator, ServerAuthenticator
from homeserver.web.channel import Timeouts
from homeserver.web.fair_port import Crowd, FairPort
from homeserver.web.hearing import Hearing
from homeserver.web.rate_limits import RateLimits
from homeserver.web.routing import Auth, Route, Router
from homeserver.web.signals import Signal
from homeserver.web.site import Site
from homeserver.web.sockets import address_of, open_socket
from homeserver.web.transport import Connection

_MOST_CONNECTIONS: Final = 10_000
#: File descriptors kept for the 512 connections of outgoing requests, the database and files.
_RESERVED_DESCRIPTORS: Final = 640
_POLL: Final = 0.02
#: Seconds a stop waits for requests of which a part has arrived.
_ARRIVAL: Final = 2.0


def check_listener(listener: Listener) -> None:
    """Raise StartRefused, saying why, where `WebServer.listen` would; nothing stays open.

    For the very start: neither a database is touched nor a file made for a server that then cannot listen.
    """
    check_certificate(listener)
    open_socket(listener).close()


def check_certificate(listener: Listener) -> None:
    """Raise StartRefused, saying why, if the listener is for TLS and its files are no good."""
    if listener.tls is not None:
        _tls_contexts(listener.tls)


class Open(Struct, frozen=True):
    """A listener that accepts connections."""

    listener: Listener
    site: Site
    port: Any

    @property
    def address(self) -> str:
        """`host:port`, with the port the system chose where 0 was asked for."""
        return address_of(self.port.socket)


class WebServer:
    """All listeners of this process.

    `shutting_down` is the signal every request shows its handler; `stop` fires it. Without `server_authenticator` there
    is no federation: routes that ask for a server's signature are not there.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        routes: Iterable[Route],
        authenticator: Authenticator,
        server_authenticator: ServerAuthenticator | None = None,
        limits: RateLimits,
        metrics: HttpMetrics,
        access_log: AccessLog,
        max_body: int,
        spools: SpoolRoom | None = None,
        trusted_proxies: Iterable[Network] = (),
        timeouts: Timeouts | None = None,
        max_connections: int | None = None,
        hearing: Hearing | None = None,
        crowd: Crowd | None = None,
        admission: Admission | None = None,
    ) -> None:
        """`crowd`: those who accept on the same sockets, where `listen` is given shared ones."""
        self.shutting_down = Signal()
        self.open: list[Open] = []
        self._reactor = reactor
        self._routes = tuple(
            route for route in routes if route.auth is not Auth.SERVER or server_authenticator is not None
        )
        self._authenticator = authenticator
        self._server_authenticator = server_authenticator
        self._limits = limits
        self._metrics = metrics
        self._access_log = access_log
        self._max_body = max_body
        self._spools = spools
        self._hearing = hearing
        self._crowd = crowd
        self._admission = admission
        self._trust = ProxyTrust(trusted_proxies)
        self._timeouts = Timeouts() if timeouts is None else timeouts
        self._max_connections = _affordable() if max_connections is None else max_connections
        for route in self._routes:
            if route.limit is not None and route.limit not in limits:
                raise ValueError(f"{route.label}: there is no rate limit {route.limit!r}")

    def listen(self, listener: Listener, shared: socket.socket | None = None) -> Open:
        """Accept connections, on `shared` if another process of this server opened it for all of them.

        Raises StartRefused, saying why, where the address or the certificate is no good.
        """
        site = self.site(listener)
        factory: Any = site
        if listener.tls is not None:
            contexts: Any = _tls_contexts(listener.tls)
            factory = _TlsFactory(contexts, False, factory)
        opened = open_socket(listener) if shared is None else shared
        # The port gets a duplicate of the descriptor, so that the socket itself stays whose it was.
        if shared is None or self._crowd is None:
            port = self._reactor.adoptStreamPort(opened.fileno(), opened.family, factory)
        else:
            port = FairPort.adopt(
                self._reactor,
                opened.fileno(),
                opened.family,
                factory,
                crowd=self._crowd,
                held=self.connections,
            )
        port.transport = Connection
        if shared is None:
            opened.close()
        result = Open(listener, site, port)
        self.open.append(result)
        return result

    def connections(self) -> int:
        """How many there are."""
        return sum(len(opened.site.connections) for opened in self.open)

    def site(self, listener: Listener) -> Site:
        """What answers on a listener: the routes of the resources it serves, and `/health`."""
        serves = {*listener.serves, "health"}
        return Site(
            clock=self._reactor,
            router=Router(route for route in self._routes if not serves.isdisjoint(route.resources)),
            authenticator=self._authenticator,
            server_authenticator=self._server_authenticator,
            limits=self._limits,
            metrics=self._metrics,
            access_log=self._access_log,
            shutting_down=self.shutting_down,
            trust=self._trust,
            max_body=self._max_body,
            spools=self._spools,
            timeouts=self._timeouts,
            max_connections=self._max_connections,
            secure=listener.tls is not None,
            hearing=self._hearing,
            admission=self._admission,
        )

    async def stop(self, grace: float, *, linger: float = 0.0) -> None:
        """Stop accepting, let what runs finish for up to `grace` seconds, then cut off the rest.

        A request that is still coming in gets a moment for the rest of it, lest one slow client hold up every stop.
        `linger`: seconds for which connections without a request stay before that. Who sends its next one meanwhile has
        it answered, and is told that the connection closes; at once, a close could cross it on its way.
        """
        closing = [opened.port.stopListening() for opened in self.open]
        self.shutting_down.fire()
        sites = [opened.site for opened in self.open]
        if linger:
            await self._until(lambda: _is_quiet(sites), linger)
        for site in sites:
            for connection in tuple(site.connections):
                connection.finish_soon()
        await gatherResults([each for each in closing if each is not None])
        arrival = min(grace, _ARRIVAL)
        await self._until(lambda: _is_quiet(sites), arrival)
        for site in sites:
            for connection in tuple(site.connections):
                connection.drop_unfinished()
        await self._until(lambda: _is_quiet(sites), grace - arrival)
        for site in sites:
            for connection in tuple(site.connections):
                connection.transport.abortConnection()
        await self._until(lambda: not any(site.connections for site in sites), 1.0)
        self.open.clear()

    async def _until(self, met: Callable[[], bool], longest: float) -> None:
        """Look every few milliseconds: a process stops once, and a notification per request would be paid by all."""
        end = self._reactor.seconds() + longest
        while not met() and self._reactor.seconds() < end:
            pause: Deferred[None] = Deferred()
            self._reactor.callLater(_POLL, pause.callback, None)
            await pause


def _is_quiet(sites: Sequence[Site]) -> bool:
    return not any(site.connections or site.running for site in sites)


def _affordable() -> int:
    """How many connections this process's file descriptors allow."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return min(_MOST_CONNECTIONS, max(16, soft // 4, soft - _RESERVED_DESCRIPTORS))


class _TlsFactory(TLSMemoryBIOFactory):
    """Refuses what its site refuses. Twisted's wraps even nothing, which stays open, and nobody counts it."""

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 (Twisted's name)
        wrapped = self.wrappedFactory.buildProtocol(addr)
        return None if wrapped is None else self.protocol(self, wrapped)


@implementer(IOpenSSLContextFactory)
class _TlsContexts:
    """Gives every connection the one context; what `listenSSL` asks for."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def getContext(self) -> SSL.Context:  # noqa: N802 (Twisted's name)
        return self._context


def _tls_contexts(tls: Tls) -> _TlsContexts:
    """TLS 1.2 and newer, with the whole chain of the certificate's file. Raises StartRefused."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    try:
        # OpenSSL reports a file it cannot open without saying why.
        for path in (tls.certificate, tls.private_key):
            path.read_bytes()
        context.use_certificate_chain_file(bytes(tls.certificate))
        context.use_privatekey_file(bytes(tls.private_key))
        context.check_privatekey()
    except OSError as error:
        raise StartRefused(f"cannot use TLS: {error}") from error
    except SSL.Error as error:
        reasons = ", ".join(str(part[-1]) for part in error.args[0]) if error.args else "unreadable"
        raise StartRefused(f"cannot use {tls.certificate} with {tls.private_key}: {reasons}") from error
    return _TlsContexts(context)
