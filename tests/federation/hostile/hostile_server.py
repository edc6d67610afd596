# SPDX-License-Identifier: Apache-2.0
"""A homeserver that has a name, a key and a certificate, and says whatever it likes, over HTTPS on loopback.

Owns its threads, its requests to the server under attack, and waiting for what that sends. What it says of rooms is
`Resident`'s and `RemoteRoom`'s; the lies are the tests'. A handler may return, besides what `RemoteServer` takes, a
function of a `Connection`: it writes the whole answer itself, byte by byte if it likes.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from homeserver.protocol.building import BuiltEvent
from homeserver.protocol.events import Event
from tests.federation.certificates import Leaf
from tests.federation.servers import Received, RemoteServer, make_key, now_ms
from tests.interop.federation.people import PATIENCE
from tests.serving import free_port

Json = dict[str, Any]
Writing = Callable[["Connection"], None]
V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"

_serial = count(1)


def segment(text: str) -> str:
    """As one part of a path."""
    return quote(text, safe="")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def errcode(self) -> str | None:
        value = self.json
        return value.get("errcode") if isinstance(value, dict) else None


class HostileServer(RemoteServer):
    """One of the name `host:port`. Its users are `mallory`, who does the harm, and `bob`, who is honest."""

    def __init__(self, ours: str, port: int, ca_file: Path, host: str = "localhost") -> None:
        """`ours`: the name of the server under attack, which is `localhost` and a port."""
        name = f"{host}:{port}"
        super().__init__(name, key=make_key(f"{name} {next(_serial)}"))
        self.ours = ours
        self.mallory, self.bob = self.user("mallory"), self.user("bob")
        self._trust = ssl.create_default_context(cafile=str(ca_file))
        self._news = threading.Condition()
        self._bodies: set[str] = set()
        self.refuses_transactions = False
        self.on("PUT", f"{V1}/send/{{transaction}}", self._take_transaction)

    # What it asks

    def request(
        self,
        method: str,
        target: str,
        content: Any = None,
        *,
        raw: bytes | None = None,
        authorization: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, signed unless another `authorization` is given (empty: none). `raw`: a body in place of it."""
        if authorization is None:
            authorization = self.authorization(self.ours, method, target, content)
        body = raw if raw is not None or content is None else json.dumps(content).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        if authorization:
            sent["Authorization"] = authorization
        host, _, port = self.ours.partition(":")
        connection = http.client.HTTPSConnection(host, int(port), timeout=PATIENCE, context=self._trust)
        try:
            connection.request(method, target, body, sent)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()

    def transaction(self, pdus: list[Any], edus: list[Any] | None = None, **more: Any) -> Answer:
        """Send events and ephemeral units as they are."""
        body = {"origin": self.name, "origin_server_ts": now_ms(), "pdus": pdus, "edus": edus or [], **more}
        return self.request("PUT", f"{V1}/send/t{next(_serial)}", body)

    def send(self, *events: BuiltEvent | Event | Json) -> dict[str, Any]:
        """Send events; the result of each by its id."""
        pdus = [
            each.event.pdu if isinstance(each, BuiltEvent) else each.pdu if isinstance(each, Event) else each
            for each in events
        ]
        answer = self.transaction(pdus)
        assert answer.status == 200, answer
        results: dict[str, Any] = answer.json["pdus"]
        return results

    # What it is sent

    def hears(self, body: str) -> None:
        """Wait until a message with that body came in a transaction."""
        with self._news:
            assert self._news.wait_for(lambda: body in self._bodies, PATIENCE), f"never heard {body!r}"

    def _take_transaction(self, request: Received) -> Any:
        if self.refuses_transactions:
            raise ConnectionResetError
        with self._news:
            for pdu in request.json.get("pdus", ()):
                self._bodies.add(str(pdu.get("content", {}).get("body")))
            self._news.notify_all()
        return {"pdus": {}}

    def asked(self, *parts: str) -> int:
        """How many requests had one of those in their path."""
        return sum(any(part in each.path for part in parts) for each in list(self.received))

    @property
    def asked_for_more(self) -> int:
        """How many requests there were besides what it was told in transactions."""
        return sum(not each.path.startswith(f"{V1}/send/") for each in list(self.received))

    def signed_by(self, server_name: str) -> list[Json]:
        """Every event that came with a signature of that server's."""
        found: list[Json] = []
        for each in list(self.received):
            body = each.json if each.method in ("PUT", "POST") else None
            for pdu in _pdus(body):
                if server_name in pdu.get("signatures", {}):
                    found.append(pdu)
        return found


def _pdus(body: Any) -> Iterator[Json]:
    if isinstance(body, dict):
        if "signatures" in body and "type" in body:
            yield body
        for value in body.values():
            yield from _pdus(value)
    elif isinstance(body, list):
        for value in body:
            yield from _pdus(value)


class Connection:
    """A request's connection, for an answer of the test's own making."""

    def __init__(self, handler: BaseHTTPRequestHandler, ended: threading.Event) -> None:
        self._handler = handler
        self.ended = ended
        """Set when the server closes."""

    def write(self, data: bytes) -> None:
        """Send bytes as they are. Raises OSError once the other side has gone."""
        self._handler.wfile.write(data)
        self._handler.wfile.flush()

    def hang_up(self) -> None:
        """After what is written now."""
        self._handler.close_connection = True

    def stream(self, chunks: Iterator[bytes], *, length: int | None = None) -> int:
        """Answer 200 with a body of those chunks, without a length unless given; how many bytes were taken."""
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        head += "" if length is None else f"Content-Length: {length}\r\n"
        self.hang_up()
        taken = 0
        with suppress(OSError):
            self.write(f"{head}\r\n".encode())
            for chunk in chunks:
                if self.ended.is_set():
                    break
                self.write(chunk)
                taken += len(chunk)
        return taken

    def drip(self, data: Iterator[bytes], pause: float) -> int:
        """The same, a chunk each `pause` seconds; how many were taken before the other side had enough."""

        def slowly() -> Iterator[bytes]:
            for chunk in data:
                yield chunk
                self.ended.wait(pause)

        return self.stream(slowly())


def saying(data: bytes) -> Callable[[Received], Writing]:
    """A handler that answers with those bytes as they are, and hangs up."""

    def say(connection: Connection) -> None:
        connection.hang_up()
        connection.write(data)

    return lambda _request: say


@contextmanager
def listening(ours: str, leaf: Leaf, ca_file: Path, host: str = "localhost") -> Iterator[HostileServer]:
    """A hostile server until the block ends. Its port, and so its name, is none that another had before: ours remembers
    the keys of whoever it was.
    """
    ended = threading.Event()
    door = _Door(("127.0.0.1", free_port()), ended)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.certificate, leaf.private_key)
    door.socket = context.wrap_socket(door.socket, server_side=True, do_handshake_on_connect=False)
    door.server = HostileServer(ours, door.server_address[1], ca_file, host)
    thread = threading.Thread(target=door.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield door.server
    finally:
        ended.set()
        door.shutdown()
        thread.join()
        door.server_close()
    assert not door.mistakes, door.mistakes


class _Door(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    server: HostileServer

    def __init__(self, address: tuple[str, int], ended: threading.Event) -> None:
        super().__init__(address, _Handler)
        self.ended = ended
        self.mistakes: list[BaseException | None] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever is attacked may hang up whenever they like; anything else is a mistake of the test."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.mistakes.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Door

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # hung up in between
            self.close_connection = True
            return
        status, value = _finish(self.server.server.answer(self.command, self.path, dict(self.headers), body))
        if callable(value):
            value(Connection(self, self.server.ended))
            return
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_PUT = do_POST = do_DELETE = _any  # noqa: N815 (the base class's names)


def _finish(answer: Coroutine[Any, Any, tuple[int, Any]]) -> tuple[int, Any]:
    """The result of a coroutine that waits for nothing."""
    try:
        answer.send(None)
    except StopIteration as stop:
        status, value = stop.value
        return status, value
    raise AssertionError("handlers of hostile servers wait for nothing")
