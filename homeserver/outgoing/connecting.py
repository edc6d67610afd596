# SPDX-License-Identifier: Apache-2.0
"""Making a connection: from a target to an address that may be reached, to a connection that is ready.

Owns the order of resolving, judging and connecting. The address that was judged is the one connected to; no name is
looked up behind the judgement. Where a host has several addresses, they are tried one after the other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IConnector
from twisted.internet.protocol import ClientFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from homeserver.needs import Protocol
from homeserver.outgoing.address_policy import AddressPolicy
from homeserver.outgoing.connection import HttpConnection, TlsCreator
from homeserver.outgoing.errors import (
    AddressDenied,
    CertificateRefused,
    ConnectFailed,
    ConnectTimedOut,
    OutgoingError,
)
from homeserver.outgoing.names import AddressResolver
from homeserver.outgoing.targets import Target, is_address
from homeserver.outgoing.tls import Handshake, TlsPolicy

#: Seconds for TCP and TLS at one address.
ADDRESS_TIMEOUT: Final = 10.0
#: The same, if there is another address to try.
IMPATIENT_TIMEOUT: Final = 4.0
#: Addresses of one host that are tried.
MAX_TRIED: Final = 4
#: An address that failed stands behind the others of its host for so many seconds; so many of them are remembered.
AVOIDED_SECONDS: Final = 600.0
MAX_AVOIDED: Final = 2_000


class Connecting(Protocol):
    """What the pool needs of the making of connections."""

    async def connect(self, target: Target, policy: AddressPolicy, key: Hashable) -> HttpConnection:
        """A connection that is ready. Raises OutgoingError."""
        ...


class Connector:
    """Makes connections. `timeout` are the seconds for TCP and TLS at one address."""

    def __init__(
        self, reactor: Any, *, resolver: AddressResolver, tls: TlsPolicy, timeout: float = ADDRESS_TIMEOUT
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._tls = tls
        self._timeout = timeout
        # Where IPv6 is announced and leads nowhere, the wait for it is worth it once, not for each connection.
        self._avoided: OrderedDict[tuple[str, int], float] = OrderedDict()

    async def connect(self, target: Target, policy: AddressPolicy, key: Hashable) -> HttpConnection:
        """A connection that is ready, its certificate checked.

        Raises NameNotFound, AddressDenied, Overloaded, ConnectFailed, ConnectTimedOut, TlsFailed, CertificateRefused:
        of several addresses' failures a refused certificate, else the first.
        """
        failure: OutgoingError | None = None
        left = self._in_order(await self.addresses(target.host, policy), target.port)
        while left:
            address = left.pop(0)
            timeout = min(self._timeout, IMPATIENT_TIMEOUT) if left else self._timeout
            try:
                return await self._connect_to(address, target, key, timeout)
            except CertificateRefused as error:
                failure = error
            except OutgoingError as error:
                failure = failure or error
                self._avoid(address, target.port)
        assert failure is not None
        raise failure

    async def addresses(self, host: str, policy: AddressPolicy) -> Sequence[str]:
        """The addresses of a host that may be reached, at least one. Raises NameNotFound, AddressDenied, Overloaded."""
        if not 0 < len(host) <= 253:
            raise ConnectFailed("not a host name")
        found = [host] if is_address(host) else await self._resolver.addresses(host)
        permitted = [address for address in found if policy.permits(address)]
        if not permitted:
            where = host if is_address(host) else f"{host} is at {', '.join(found)}, and that"
            raise AddressDenied(f"{where} is an address this server may not reach")
        return permitted[:MAX_TRIED]

    def _in_order(self, addresses: Sequence[str], port: int) -> list[str]:
        """As the resolver prefers them, those that failed lately last."""
        now = self._reactor.seconds()
        return sorted(addresses, key=lambda address: self._avoided.get((address, port), now) > now)

    def _avoid(self, address: str, port: int) -> None:
        self._avoided[address, port] = self._reactor.seconds() + AVOIDED_SECONDS
        self._avoided.move_to_end((address, port))
        if len(self._avoided) > MAX_AVOIDED:
            self._avoided.popitem(last=False)

    async def _connect_to(
        self, address: str, target: Target, key: Hashable, timeout: float
    ) -> HttpConnection:
        handshake = None if target.tls_name is None else Handshake(target.tls_name, key)
        attempt = _Attempt(self._reactor, self._tls, handshake)
        return await attempt.begin(address, target.port, timeout)


class _Attempt:
    """One try at one address."""

    def __init__(self, reactor: Any, tls: TlsPolicy, handshake: Handshake | None) -> None:
        self._reactor = reactor
        self._tls = tls
        self._handshake = handshake
        self._done: Deferred[HttpConnection] = Deferred(self._cancelled)
        self._connection = HttpConnection(reactor, tls=tls, handshake=handshake, ready=self._ready)
        self._connector: Any = None
        self._timer: Any = None

    def begin(self, address: str, port: int, timeout: float) -> Deferred[HttpConnection]:
        factory: Any = _Factory(self._connection, self.failed)
        if self._handshake is not None:
            creator: Any = TlsCreator(self._tls, self._handshake, self._reactor.seconds())
            factory = TLSMemoryBIOFactory(creator, True, factory, clock=self._reactor)
            factory.noisy = False
        self._timer = self._reactor.callLater(timeout, self._expired)
        # One timer for TCP and TLS together; the reactor's own comes later and never fires.
        self._connector = self._reactor.connectTCP(address, port, factory, timeout=timeout + 1)
        return self._done

    def failed(self, failure: Failure) -> None:
        """TCP did not come about."""
        self._ready(ConnectFailed(f"no connection: {failure.getErrorMessage()}"))

    def _ready(self, error: OutgoingError | None) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._done.called:
            return
        if error is None:
            self._done.callback(self._connection)
        else:
            self._done.errback(error)

    def _expired(self) -> None:
        self._ready(ConnectTimedOut("making the connection took too long"))
        self._give_up()

    def _cancelled(self, done: Deferred[HttpConnection]) -> None:
        done.errback(CancelledError())
        self._ready(None)
        self._give_up()

    def _give_up(self) -> None:
        self._connection.abort()
        self._connector.disconnect()


class _Factory(ClientFactory):
    """Hands out the one protocol of an attempt."""

    noisy = False

    def __init__(self, connection: HttpConnection, failed: Any) -> None:
        self._connection = connection
        self._failed = failed

    def buildProtocol(self, _addr: IAddress | None) -> HttpConnection:  # noqa: N802
        return self._connection

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:  # noqa: N802
        self._failed(reason)
