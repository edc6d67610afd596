# SPDX-License-Identifier: Apache-2.0
"""A name server on loopback, over UDP and TCP, that knows the SRV records a test gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.names import dns, error, server

from federation.discovery.steps import SrvRecord
from tests.reactor import reactor


def _datagrams(factory: Any) -> Any:
    return dns.DNSDatagramProtocol(factory)  # type: ignore[no-untyped-call]


def _listening(factory: Any) -> tuple[Any, Any]:
    """Sockets of both kinds on one port, whichever others have taken for one of them."""
    while True:
        udp = reactor.listenUDP(0, _datagrams(factory), interface="127.0.0.1")
        try:
            return udp, reactor.listenTCP(udp.getHost().port, factory, interface="127.0.0.1")
        except CannotListenError:
            udp.stopListening()


class NameServer:
    """Answers from `records`, by name. A name with None is answered SERVFAIL, one that is not there NXDOMAIN."""

    def __init__(self) -> None:
        self.records: dict[str, Sequence[SrvRecord] | None] = {}
        self.ttl = 3600
        self.asked: list[str] = []
        self.silent = False
        factory: Any = server.DNSServerFactory(clients=[self])  # type: ignore[no-untyped-call]
        factory.noisy = False
        # One port for both, as clients expect when an answer is too long for a datagram.
        self._udp, self._tcp = _listening(factory)
        self.port: int = self._tcp.getHost().port

    def query(self, query: dns.Query, timeout: object = None) -> Deferred[Any]:
        """As twisted.names asks its resolvers."""
        name = query.name.name.decode()
        self.asked.append(name)
        if self.silent:
            return Deferred()
        records = self.records.get(name, ())
        if records is None:
            return fail(RuntimeError("this name server is broken"))
        if not records:
            return fail(error.DomainError())
        answers = []
        for record in records:
            payload: Any = dns.Record_SRV(*record)  # type: ignore[no-untyped-call]
            answers.append(dns.RRHeader(name, dns.SRV, ttl=self.ttl, payload=payload))
        return succeed((answers, [], []))

    async def stop(self) -> None:
        """Stop listening."""
        await maybeDeferred(self._udp.stopListening)
        await maybeDeferred(self._tcp.stopListening)
