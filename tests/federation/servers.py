# SPDX-License-Identifier: Apache-2.0
"""Other servers, for tests: with a signing key, events and requests signed by it, in memory or over HTTP.

Owns `RemoteServer`, what it was sent and how it answers. It shares the protocol core (events, hashes, signatures) with
the server under test, but neither its parsing of `Authorization` nor its HTTP client.

    hydra = RemoteServer("hydra.test")
    hydra.on("GET", "/_matrix/federation/v1/query/profile", lambda request: {"displayname": "Hydra"})
    network = Network(hydra)                       # a `federation.client.wire.Wire`
    async with hydra.listening() as address: ...   # the same over HTTP on loopback

A handler returns JSON (200), or raises `Refused(status, errcode)`; it may be a coroutine function. `{name}` in a path
stands for one segment. `GET /_matrix/key/v2/server` is answered without being asked to. An unknown path gets 404.
"""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from twisted.internet.defer import Deferred
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.protocols.policies import WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.server import Site as TwistedSite

from federation.client.errors import Unreachable
from federation.client.wire import Answer
from homeserver.protocol.building import BuiltEvent, build_event
from homeserver.protocol.canonical_json import encode_canonical
from homeserver.protocol.events import Event
from homeserver.protocol.hashes import reference_hash
from homeserver.protocol.room_versions import RoomVersion, room_version
from homeserver.protocol.signing import SigningKey, VerifyKey, check_json_signature, sign_json, sign_pdu
from homeserver.protocol.unpadded_base64 import encode_base64
from tests.reactor import reactor

WEEK_MS = 7 * 24 * 3600 * 1000
_serial = count(1)


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def make_key(seed: str, key_id: str = "ed25519:test") -> SigningKey:
    """A signing key that is the same for the same text."""
    return SigningKey.from_seed(key_id, sha256(seed.encode()).digest())


class Refused(Exception):
    """What a handler raises to answer an error."""

    def __init__(
        self, status: int, errcode: str = "M_UNKNOWN", error: str = "refused", **fields: Any
    ) -> None:
        super().__init__(f"{status} {errcode}: {error}")
        self.status = status
        self.body = {"errcode": errcode, "error": error, **fields}


@dataclass(frozen=True, slots=True)
class Received:
    """A request as a remote server got it."""

    method: str
    target: str
    headers: Mapping[str, str]
    """Lower-case names."""
    raw: bytes
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What stood for `{name}` in the path, decoded."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.target.partition("?")[2], keep_blank_values=True)

    @property
    def json(self) -> Any:
        """The body; None for none."""
        return json.loads(self.raw) if self.raw else None

    @property
    def credentials(self) -> dict[str, str]:
        """The parameters of the X-Matrix header, which this project's client always quotes."""
        scheme, _, rest = self.headers.get("authorization", "").partition(" ")
        return dict(re.findall(r'(\w+)="([^"]*)"', rest)) if scheme == "X-Matrix" else {}

    @property
    def origin(self) -> str | None:
        """Who says to have sent it; `check_signature` says whether that is true."""
        return self.credentials.get("origin")

    def check_signature(self, destination: str, keys: Mapping[str, VerifyKey]) -> None:
        """Raise SignatureError unless one of the keys, by id, signed it for that destination."""
        credentials = self.credentials
        assert credentials["destination"] == destination
        signed: dict[str, Any] = {
            "method": self.method,
            "uri": self.target,
            "origin": credentials["origin"],
            "destination": destination,
            "signatures": {credentials["origin"]: {credentials["key"]: credentials["sig"]}},
        }
        if self.raw:
            signed["content"] = self.json
        check_json_signature(signed, credentials["origin"], keys)


Handler = Callable[[Received], Any]


class RemoteServer:
    """A server of that name. `received` lists every request, in order."""

    def __init__(self, name: str, *, key: SigningKey | None = None) -> None:
        self.name = name
        self.key = key or make_key(name)
        self.old_keys: dict[str, tuple[VerifyKey, int]] = {}
        """Key id → key, since when (ms) it is not used any more."""
        self.valid_for_ms = WEEK_MS
        """How long from now it says its keys are valid."""
        self.received: list[Received] = []
        self.reachable = True
        self._handlers: list[tuple[str, re.Pattern[str], Handler]] = []
        self.on("GET", "/_matrix/key/v2/server", lambda _request: self.key_response())

    # What it says of itself

    @property
    def verify_keys(self) -> dict[str, VerifyKey]:
        """Its present keys by id."""
        return {self.key.key_id: self.key.verify_key}

    def key_response(self, **changes: Any) -> dict[str, Any]:
        """Its answer to `GET /_matrix/key/v2/server`, signed; `changes` are made before signing."""
        response = {
            "server_name": self.name,
            "verify_keys": {
                key_id: {"key": verify_key.to_base64()} for key_id, verify_key in self.verify_keys.items()
            },
            "old_verify_keys": {
                key_id: {"key": verify_key.to_base64(), "expired_ts": expired_ts}
                for key_id, (verify_key, expired_ts) in self.old_keys.items()
            },
            "valid_until_ts": now_ms() + self.valid_for_ms,
            **changes,
        }
        return sign_json(response, self.name, self.key, strict=False)

    # What it makes

    def user(self, localpart: str = "alice") -> str:
        """A user id of it."""
        return f"@{localpart}:{self.name}"

    def room_id(self, version: RoomVersion | str = "11") -> str:
        """A fresh room id of it, for room versions up to 11."""
        return f"!remote{next(_serial)}:{self.name}"

    def pdu(
        self,
        *,
        version: RoomVersion | str,
        room_id: str | None,
        event_type: str = "m.room.message",
        sender: str | None = None,
        content: Mapping[str, Any] | None = None,
        state_key: str | None = None,
        prev: Sequence[Event | BuiltEvent] = (),
        auth: Sequence[Event | BuiltEvent] = (),
        depth: int | None = None,
        origin_server_ts: int | None = None,
        redacts: str | None = None,
    ) -> BuiltEvent:
        """An event of it, hashed and signed: `.event.pdu` is the PDU, `.json_bytes` its canonical JSON.

        `depth` is by default one more than that of the deepest `prev`; `sender` `@alice` of it. In room versions 1 and
        2 an event id is made up. `room_id` None: a create event of a version whose room id is its hash.
        """
        kind = room_version(version) if isinstance(version, str) else version
        parents, grants = [_event(each) for each in prev], [_event(each) for each in auth]
        hashes: dict[str, str] = {}
        if kind.chooses_event_ids:
            hashes = {
                each.event_id: encode_base64(reference_hash(each.pdu, kind)) for each in (*parents, *grants)
            }
        return build_event(
            room_version=kind,
            room_id=room_id,
            event_type=event_type,
            state_key=state_key,
            sender=sender or self.user(),
            content=dict(content if content is not None else {"msgtype": "m.text", "body": "hello"}),
            prev_event_ids=[each.event_id for each in parents],
            auth_event_ids=[each.event_id for each in grants],
            depth=depth if depth is not None else max((each.depth for each in parents), default=0) + 1,
            origin_server_ts=now_ms() if origin_server_ts is None else origin_server_ts,
            server_name=self.name,
            signing_key=self.key,
            redacts=redacts,
            event_id=f"$remote{next(_serial)}:{self.name}" if kind.chooses_event_ids else None,
            reference_hashes=hashes,
        )

    def sign_pdu(self, pdu: Mapping[str, Any], version: RoomVersion | str) -> dict[str, Any]:
        """A PDU of somebody else's making (an invite, say) with its signature added."""
        kind = room_version(version) if isinstance(version, str) else version
        return sign_pdu(dict(pdu), kind, self.name, self.key)

    def authorization(
        self, destination: str | None, method: str, target: str, content: Any = None, **changes: str
    ) -> str:
        """The value of an Authorization header for a request of it; `changes` replace header parameters.

        `content` is the parsed body, None for none. `destination` None: as very old servers did, without.
        """
        signed: dict[str, Any] = {"method": method, "uri": target, "origin": self.name}
        if destination is not None:
            signed["destination"] = destination
        if content is not None:
            signed["content"] = content
        signature = self.key.sign(encode_canonical(signed, strict=False))
        parameters = {"origin": self.name, "key": self.key.key_id, "sig": signature}
        if destination is not None:
            parameters["destination"] = destination
        parameters.update(changes)
        return "X-Matrix " + ",".join(f'{name}="{value}"' for name, value in parameters.items())

    # What it answers

    def on(self, method: str, path: str, handler: Handler) -> None:
        """Answer requests to a path; the newest handler of a path counts."""
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path))
        self._handlers.insert(0, (method, re.compile(pattern), handler))

    async def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Any]:
        """Status and JSON of the answer to a request, which is recorded."""
        path = target.partition("?")[0]
        lower = {name.lower(): value for name, value in headers.items()}
        for wanted, pattern, handler in self._handlers:
            match = pattern.fullmatch(path)
            if match is None or wanted != method:
                continue
            parameters = {name: unquote(value) for name, value in match.groupdict().items()}
            received = Received(method, target, lower, body, parameters)
            self.received.append(received)
            try:
                result = handler(received)
                if inspect.isawaitable(result):
                    result = await result
            except Refused as refusal:
                return refusal.status, refusal.body
            return 200, result
        self.received.append(Received(method, target, lower, body))
        return 404, {"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}

    def requests(self, method: str, path_prefix: str) -> list[Received]:
        """What it received of that method, with a path that begins so."""
        return [each for each in self.received if each.method == method and each.path.startswith(path_prefix)]

    @asynccontextmanager
    async def listening(
        self, *, port: int = 0, certificate: Path | None = None, private_key: Path | None = None
    ) -> AsyncIterator[int]:
        """Serve on 127.0.0.1, over TLS if a certificate is given; gives the port."""
        site: Any = WrappingFactory(TwistedSite(_Everything(self)))  # type: ignore[no-untyped-call]
        if certificate is not None and private_key is not None:
            contexts = DefaultOpenSSLContextFactory(str(private_key), str(certificate))  # type: ignore[no-untyped-call]
            opened = reactor.listenSSL(port, site, contexts, interface="127.0.0.1")
        else:
            opened = reactor.listenTCP(port, site, interface="127.0.0.1")
        try:
            yield opened.getHost().port
        finally:
            await opened.stopListening()
            for connection in tuple(site.protocols):
                connection.transport.abortConnection()


class _Everything(Resource):
    """Hands every request to the remote server."""

    isLeaf = True  # noqa: N815 (Twisted's name)

    def __init__(self, server: RemoteServer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._server = server

    def render(self, request: Any) -> Any:
        Deferred.fromCoroutine(self._answer(request)).addErrback(request.processingFailed)
        return NOT_DONE_YET

    async def _answer(self, request: Any) -> None:
        headers = {
            name.decode("latin-1"): values[-1].decode("latin-1")
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        gone: list[object] = []
        request.notifyFinish().addBoth(gone.append)
        status, value = await self._server.answer(
            request.method.decode("ascii"), request.uri.decode("latin-1"), headers, request.content.read()
        )
        if gone:
            return
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        request.setResponseCode(status)
        request.setHeader(b"Content-Type", b"application/json")
        request.write(body)
        request.finish()


class Network:
    """Servers in memory, reached by name: a `Wire` for `FederationClient` and the fetching of keys.

    A handler that returns `bytes` answers with them as they are. `before` is awaited ahead of each request, for tests
    that hold one back or let it fail.
    """

    def __init__(self, *servers: RemoteServer) -> None:
        self.servers = {server.name: server for server in servers}
        self.before: Callable[[str, str, str], Awaitable[None]] | None = None

    def add(self, server: RemoteServer) -> RemoteServer:
        """One more, or another in place of that name."""
        self.servers[server.name] = server
        return server

    async def send(
        self,
        destination: str,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,
        max_size: int,
        repeatable: bool = False,
    ) -> Answer:
        """As `Wire.send`."""
        if self.before is not None:
            await self.before(destination, method, target)
        server = self.servers.get(destination)
        if server is None or not server.reachable:
            raise Unreachable(destination, "not in this network")
        status, value = await server.answer(method, target, headers, body or b"")
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        if len(raw) > max_size:
            raise Unreachable(destination, f"the answer is larger than {max_size} bytes")
        return Answer(status, raw)


def _event(given: Event | BuiltEvent) -> Event:
    return given.event if isinstance(given, BuiltEvent) else given
