# SPDX-License-Identifier: Apache-2.0
"""Servers on loopback that answer with whatever bytes a test wants, over TCP or TLS, and clients to ask them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IAddress, IOpenSSLContextFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

from homeserver.outgoing import AddressPolicy, AddressResolver, Connector, OutgoingClient, Target, TlsPolicy
from homeserver.outgoing.errors import NameNotFound
from homeserver.outgoing.pool import PoolLimits
from tests.federation.certificates import Leaf
from tests.reactor import reactor

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A response with a length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, "", "")).encode() + body


class Link(Protocol):
    """The server's end of a connection: gathers a request, then lets the script answer it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.received = b""
        self.closed = False

    def connectionMade(self) -> None:
        self.server.links.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].decode()
            length = next(
                (int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:")),
                0,
            )
            if len(self.received) < end + 4 + length:
                return
            body = self.received[end + 4 : end + 4 + length]
            self.received = self.received[end + 4 + length :]
            self.server.requests.append((head, body))
            self.server.script(self, head)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True

    def send(self, data: bytes) -> None:
        """Write bytes."""
        transport: Any = self.transport
        transport.write(data)

    def end(self) -> None:
        """Close after what was written."""
        transport: Any = self.transport
        transport.loseConnection()

    def drop(self) -> None:
        """Go away without a word."""
        transport: Any = self.transport
        transport.abortConnection()


Script = Callable[[Link, str], None]


@implementer(IOpenSSLContextFactory)
class _Contexts:
    def __init__(self, leaf: Leaf) -> None:
        self.context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self.context.use_certificate_chain_file(str(leaf.certificate))
        self.context.use_privatekey_file(str(leaf.private_key))
        self.context.set_session_id(b"test")

    def getContext(self) -> SSL.Context:
        return self.context


class Server(Factory):
    """Listens on 127.0.0.1 and answers by a script: a function of the link and the head of a request."""

    noisy = False

    def __init__(self, script: Script, leaf: Leaf | None = None, interface: str = "127.0.0.1") -> None:
        self.script = script
        self.secure = leaf is not None
        self.links: list[Link] = []
        self.requests: list[tuple[str, bytes]] = []
        if leaf is None:
            self._listening: Any = reactor.listenTCP(0, self, interface=interface)
        else:
            self._listening = reactor.listenSSL(0, self, _Contexts(leaf), interface=interface)
        self.port: int = self._listening.getHost().port

    def buildProtocol(self, _addr: IAddress | None) -> Link:
        return Link(self)

    def target(self, tls_name: str | None = None, host: str = "127.0.0.1") -> Target:
        """Where this server is."""
        return Target(host, self.port, tls_name, tls_name or host)

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        await maybeDeferred(self._listening.stopListening)
        for link in self.links:
            if not link.closed:
                link.drop()


@contextmanager
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which nothing listens, nor does anybody else until the block ends."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def always(data: bytes) -> Script:
    """Answer every request with these bytes."""
    return lambda link, _head: link.send(data)


class Names:
    """A resolver that knows these names."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self.names = dict(names)
        self.asked: list[str] = []

    async def addresses(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.names:
            raise NameNotFound(f"the name {host} has no address")
        return self.names[host]


def client_of(
    names: Mapping[str, Sequence[str]] | AddressResolver | None = None,
    *,
    ca_file: Path | None = None,
    verify: bool = True,
    policy: AddressPolicy | None = None,
    limits: PoolLimits | None = None,
    connect_timeout: float = 10.0,
) -> OutgoingClient:
    """A client that may reach loopback only."""
    known = Names(names or {}) if names is None or isinstance(names, Mapping) else names
    tls = TlsPolicy(verify=verify, ca_file=ca_file)
    return OutgoingClient(
        reactor,
        connector=Connector(reactor, resolver=known, tls=tls, timeout=connect_timeout),
        policy=policy or AddressPolicy(deny=(ip_network("0.0.0.0/0"), ip_network("::/0")), allow=LOOPBACK),
        user_agent="test",
        limits=limits,
    )
