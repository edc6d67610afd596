# SPDX-License-Identifier: Apache-2.0
"""A name server on loopback, over UDP and TCP, that knows the SRV records a test gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.names import dns, error, server

from federation.discovery.steps import SrvRecord
from tests.reactor import reactor


def _datagrams(factory: Any) -> Any:
    return dns.DNSDatagramProtocol(factory)  # type: ignore[no-untyped-call]


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
        self._tcp: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.port: int = self._tcp.getHost().port
        self._udp: Any = reactor.listenUDP(self.port, _datagrams(factory), interface="127.0.0.1")

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
