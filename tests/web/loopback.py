# SPDX-License-Identifier: Apache-2.0
"""A web server and a client that speaks bytes, both on the test's reactor, over loopback.

Owns the connection as a client sees it: what it sends in whichever pieces, and the responses it can tell apart.
"""

import datetime
import gzip
import io
import json
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ClientEndpoint, TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

from homeserver.config.sections import Listener, Tls
from homeserver.errors import UnknownToken
from homeserver.observability.access_log import AccessLog
from homeserver.observability.log_output import LogOutput
from homeserver.observability.metrics import HttpMetrics
from homeserver.spooling import SpoolRoom
from homeserver.web.addresses import Network
from homeserver.web.admission import Admission
from homeserver.web.authentication import Authenticator, Requester
from homeserver.web.channel import Timeouts
from homeserver.web.listeners import Open, WebServer
from homeserver.web.rate_limits import DEFAULTS, Limit, RateLimits
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route
from tests.reactor import reactor

ALICE = Requester(user_id="@alice:test", device_id="DEVICE")


class Tokens:
    """An authenticator that knows these tokens."""

    def __init__(self, tokens: Mapping[str, Requester]) -> None:
        self._tokens = tokens

    async def authenticate(self, token: str, request: MatrixRequest) -> Requester:
        requester = self._tokens.get(token)
        if requester is None:
            raise UnknownToken
        return requester


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        """The body, unpacked and decoded."""
        raw = gzip.decompress(self.raw) if self.headers.get("content-encoding") == "gzip" else self.raw
        return json.loads(raw)

    @property
    def errcode(self) -> Any:
        return self.json["errcode"]


class Connection(Protocol):
    """A client's connection. `received` is what was not yet asked for."""

    def __init__(self) -> None:
        self.received = b""
        self.closed = False
        self._waiting: Deferred[None] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def send(self, data: bytes) -> None:
        """Write bytes."""
        transport: Any = self.transport
        transport.write(data)

    def end_sending(self) -> None:
        """Close this half of the connection, when what was sent is gone."""
        transport: Any = self.transport
        transport.loseWriteConnection()

    def drop(self) -> None:
        """Go away without a word."""
        transport: Any = self.transport
        transport.abortConnection()

    async def until(self, met: Callable[[], bool]) -> None:
        """Wait for bytes or the end until `met`. Raises EOFError if the end comes first."""
        while not met():
            if self.closed:
                raise EOFError(self.received)
            self._waiting = Deferred()
            await self._waiting

    async def end(self) -> None:
        """Wait until the server closes the connection."""
        if not self.closed:
            await self.until(lambda: self.closed)

    async def response(self, method: str = "GET") -> Answer:
        """The next response."""
        await self.until(lambda: b"\r\n\r\n" in self.received)
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        status = int(status_line.split(" ")[1])
        if status == 100:
            return await self.response(method)
        length = 0 if method == "HEAD" or status in {101, 204, 304} else int(headers["content-length"])
        await self.until(lambda: len(self.received) >= length)
        raw, self.received = self.received[:length], self.received[length:]
        return Answer(status, headers, raw)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> Answer:
        """Send a request, wait for its response."""
        self.send(request_bytes(method, path, body=body, headers=headers, token=token))
        return await self.response(method)


def request_bytes(
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
) -> bytes:
    """A request as it stands on the wire."""
    lines = {"Host": "localhost", **(headers or {})}
    if token is not None:
        lines["Authorization"] = f"Bearer {token}"
    if body is not None:
        lines.setdefault("Content-Length", str(len(body)))
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode("latin-1") + b"\r\n" + (body or b"")


def certificate(directory: Path) -> Tls:
    """A certificate for localhost that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    tls = Tls(certificate=directory / "a.crt", private_key=directory / "a.key")
    tls.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    tls.private_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return tls


@implementer(IOpenSSLContextFactory)
class _Trusting:
    """The TLS contexts of a client that trusts this very certificate."""

    def __init__(self, tls: Tls) -> None:
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.load_verify_locations(bytes(tls.certificate))
        self._context.set_verify(SSL.VERIFY_PEER)

    def getContext(self) -> SSL.Context:
        return self._context


class Loopback:
    """A server with these routes; close it with `await stop()`."""

    def __init__(
        self,
        routes: Iterable[Route],
        *,
        tokens: Mapping[str, Requester] | None = None,
        limits: Mapping[str, Limit] | None = None,
        max_body: int = 65536,
        trusted_proxies: Iterable[Network] = (),
        timeouts: Timeouts | None = None,
        max_connections: int = 100,
        listener: Listener | None = None,
        shared: socket.socket | None = None,
        authenticator: Authenticator | None = None,
        spools: SpoolRoom | None = None,
        admission: Admission | None = None,
    ) -> None:
        self.lines = io.StringIO()
        self.metrics = HttpMetrics()
        self.server = WebServer(
            reactor,
            routes=routes,
            authenticator=authenticator or Tokens({"alice": ALICE} if tokens is None else tokens),
            limits=RateLimits(
                reactor.seconds, enabled=limits is not None, limits={**DEFAULTS, **(limits or {})}
            ),
            metrics=self.metrics,
            access_log=AccessLog(LogOutput(self.lines)),
            max_body=max_body,
            trusted_proxies=trusted_proxies,
            timeouts=timeouts,
            max_connections=max_connections,
            spools=spools,
            admission=admission,
        )
        self.open: Open = self.server.listen(listener or Listener(port=0), shared)
        self._connections: list[Connection] = []
        self._tls: Tls | None = listener.tls if listener else None

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self.open.port.getHost().port
        return port

    async def connect(self) -> Connection:
        """A new connection to it."""
        endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        if self._tls is not None:
            endpoint = SSL4ClientEndpoint(  # type: ignore[no-untyped-call]
                reactor, "127.0.0.1", self.port, _Trusting(self._tls)
            )
        connection: Connection = await connectProtocol(endpoint, Connection())  # type: ignore[no-untyped-call]
        self._connections.append(connection)
        return connection

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        """One request on a connection of its own."""
        connection = await self.connect()
        try:
            return await connection.request(method, path, **options)
        finally:
            connection.drop()

    async def stop(self, grace: float = 5.0) -> None:
        """Drop what clients are left, then stop."""
        for connection in self._connections:
            if not connection.closed:
                connection.drop()
        await self.server.stop(grace)
