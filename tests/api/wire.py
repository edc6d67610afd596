# SPDX-License-Identifier: Apache-2.0
"""Two ways to a server: requests on a kept connection, and bytes on a socket.

`Wire` sends what it is told to, however wrong, as long as it is HTTP. `Line` is for what is not, or comes slowly.
Neither knows anything of Matrix but where the token goes and what an error looks like.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlencode

from tests.serving import Answer, ServerProcess

PATIENCE = 120.0
"""Seconds after which a server that says nothing has failed: longer than polls wait, on a machine that may stop."""
JSON = "application/json"


class Wire:
    """One kept connection, made anew when the server closed it. Not for two threads.

    `address` is where it comes from: any of 127.0.0.0/8 is this machine, and another client to the rate limits.
    """

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=PATIENCE, source_address=(address, 0)
        )
        # People come and go by the hundred; whoever is forgotten has hung up.
        self._hangs_up = weakref.finalize(self, self._connection.close)

    def close(self) -> None:
        self._hangs_up()

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request. `body`: `bytes` go as they are, other values as JSON."""
        payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {} if payload is None else {"Content-Type": JSON}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        sent.update(headers or {})
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            return self._exchange(method, target, payload, sent)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # Between two requests a server may close a kept connection; a second refusal is one.
            self._connection.close()
            return self._exchange(method, target, payload, sent)

    def ok(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """The JSON of a request that must succeed."""
        answer = self.call(method, path, body, **more)
        assert answer.status == 200, f"{method} {path} answered {answer.status}: {answer.raw[:500]!r}"
        return answer.body

    def _exchange(self, method: str, target: str, payload: bytes | None, headers: dict[str, str]) -> Answer:
        try:
            self._connection.request(method, target, payload, headers)
            response = self._connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, received, response.read())
        except BaseException:
            self._connection.close()
            raise


def check_refusal(answer: Answer, status: int, errcode: str) -> None:
    """An error is JSON with `errcode` and `error`, and browsers may read it."""
    assert (answer.status, errcode_of(answer)) == (status, errcode), answer
    check_error_form(answer)


def check_error_form(answer: Answer) -> None:
    """Every 4xx is the standard error response, with the headers browsers ask for."""
    assert 400 <= answer.status < 500, answer
    check_error_object(answer)


def check_error_object(answer: Answer) -> None:
    """The standard error response, whatever its status."""
    assert answer.headers["content-type"] == JSON, answer
    assert isinstance(answer.body, dict), answer
    # An interactive authentication that has only begun needs no code.
    if answer.status != 401 or "flows" not in answer.body:
        assert re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*", answer.body["errcode"]), answer
        assert isinstance(answer.body["error"], str), answer
    check_cors(answer)


def check_cors(answer: Answer) -> None:
    """The headers of the section "Web Browser Clients", and those that let scripts read a retry's time."""
    assert answer.headers["access-control-allow-origin"] == "*"
    methods = {method.strip() for method in answer.headers["access-control-allow-methods"].split(",")}
    assert methods >= {"GET", "POST", "PUT", "DELETE", "OPTIONS"}
    allowed = {name.strip() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert allowed >= {"X-Requested-With", "Content-Type", "Authorization"}
    assert "Retry-After" in answer.headers["access-control-expose-headers"]


def errcode_of(answer: Answer) -> str | None:
    return answer.body.get("errcode") if isinstance(answer.body, dict) else None


def gauge(server: ServerProcess, name: str) -> float:
    """A figure of /metrics; of several workers, the sum of theirs."""
    text = server.call("GET", "/metrics").raw.decode()
    found = re.findall(rf'^{name}(?:{{worker="\d+"}})? ([\d.e+]+)$', text, re.MULTILINE)
    assert found, f"no {name} in /metrics"
    return sum(map(float, found))


class Line:
    """A TCP connection of which one says every byte."""

    def __init__(self, port: int, address: str = "127.0.0.1", *, patience: float = PATIENCE) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), patience, source_address=(address, 0))
        self._reader = self._socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def push(self, data: bytes) -> None:
        """Send as much as is taken: who is refused, or was too slow, may be hung up on before all is sent."""
        with suppress(ConnectionError):
            self._socket.sendall(data)

    def answer(self) -> Answer:
        """The next response."""
        status_line = self._reader.readline()
        assert status_line.startswith(b"HTTP/1.1 "), status_line
        headers: dict[str, str] = {}
        while (line := self._reader.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = self._reader.read(int(headers.get("content-length", "0")))
        return Answer(int(status_line.split()[1]), headers, body)

    def rest(self) -> bytes:
        """All that comes until the server closes; empty also for a connection it reset."""
        try:
            return self._reader.read()
        except ConnectionResetError:
            return b""

    def half_close(self) -> None:
        """Nothing more will be sent, but answers are welcome."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Go away without a word."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._reader.close()
        self._socket.close()


@contextmanager
def lines(port: int, count: int) -> Iterator[list[Line]]:
    """Several connections, closed at the end."""
    opened: list[Line] = []
    try:
        for _ in range(count):
            opened.append(Line(port))
        yield opened
    finally:
        for line in opened:
            line.close()


def request(
    method: str, target: str, body: bytes | None = None, *, token: str | None = None, extra: str = ""
) -> bytes:
    """The bytes of an HTTP/1.1 request; `extra` are whole header lines."""
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{extra}"
    if token is not None:
        head += f"Authorization: Bearer {token}\r\n"
    if body is not None:
        head += f"Content-Length: {len(body)}\r\n"
    return head.encode("latin-1") + b"\r\n" + (body or b"")
