# SPDX-License-Identifier: Apache-2.0
"""One request and its response on one connection: the caps of the caller, and where the body goes.

Owns the request's bytes, the bounds on the answer's size and the inflation of compressed answers. Does not own the
connection, which feeds it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from homeserver.needs import Protocol
from homeserver.outgoing.errors import BadResponse, BadUrl, TooLarge
from homeserver.outgoing.parsing import ResponseHead, ResponseParser

#: What compression may gain before it counts as an attack, once that many bytes came out of it.
MAX_INFLATION: Final = 100
SUSPICIOUS_BYTES: Final = 1 << 20

_METHOD: Final = re.compile(r"[A-Z]{1,20}")
_PATH: Final = re.compile(r"/[!-~]*")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t -~\x80-\xff]*")


class Flow(Protocol):
    """How fast a body comes, for sinks that are slower than the network."""

    def pause(self) -> None:
        """Stop reading; what was read already may still come."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...


class Sink(Protocol):
    """Where a body goes. What a method raises ends the request with it."""

    def begin(self, head: ResponseHead, flow: Flow) -> None:
        """The head is there."""
        ...

    def write(self, data: bytes) -> None:
        """A piece of the body, inflated if it was compressed."""
        ...


class Collected:
    """A body in memory, in one piece: a list of tiny ones would take many times their size."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def begin(self, head: ResponseHead, flow: Flow) -> None:
        """Nothing to prepare."""

    def write(self, data: bytes) -> None:
        """One more piece."""
        self._data += data

    def body(self) -> bytes:
        """All of it."""
        return bytes(self._data)


class Caps(Struct, frozen=True, kw_only=True):
    """What an answer may cost."""

    max_size: int
    """Bytes of body, after inflation."""
    timeout: float = 30.0
    """Seconds for everything: the name, the connection, the request, the answer, redirects."""
    stall: float = 30.0
    """Seconds between two signs of life on the connection. A sink that pauses stops this clock, never the other."""


def request_bytes(
    method: str, path: str, host_header: str, headers: Mapping[str, str], body: bytes | None
) -> bytes:
    """A request as it goes over the wire. Raises BadUrl for what would break out of its place."""
    if not _METHOD.fullmatch(method) or not _PATH.fullmatch(path) or not _PATH.fullmatch("/" + host_header):
        raise BadUrl("the method, the path or the host cannot be sent")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host_header}"]
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadUrl(f"the header {name!r} cannot be sent")
        lines.append(f"{name}: {value}")
    if body is not None or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body or b'')}")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + (body or b"")


class Answer:
    """A response on its way to a sink, within caps."""

    __slots__ = ("_flow", "_inflate", "_max_size", "_parser", "_read", "_received", "_sink")

    def __init__(self, method: str, max_size: int, sink: Sink, flow: Flow) -> None:
        self._parser = ResponseParser(method)
        self._max_size = max_size
        self._sink = sink
        self._flow = flow
        self._read: ResponseHead | None = None
        self._received = 0
        self._inflate: _Inflation | None = None

    @property
    def done(self) -> bool:
        """Whether the response is complete."""
        return self._parser.done

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request."""
        return self._parser.reusable

    @property
    def head(self) -> ResponseHead:
        """Status and headers of a complete response."""
        assert self._parser.head is not None
        return self._parser.head

    def feed(self, data: bytes) -> None:
        """Take what came. Raises BadResponse, TooLarge, and what the sink raises."""
        for piece in self._parser.feed(data):
            if self._read is None:
                self._begin()
            self._received += len(piece)
            if self._received > self._max_size:
                raise TooLarge(f"the answer is larger than {self._max_size} bytes")
            if self._inflate is None:
                self._sink.write(piece)
            else:
                self._write_inflated(self._inflate, piece)
        if self._read is None and self._parser.head is not None:
            self._begin()
        if self.done:
            self._finish()

    def end(self, *, cleanly: bool) -> None:
        """The connection ended. Raises ConnectionBroken unless that ends the response, too."""
        self._parser.end(cleanly=cleanly)
        self._finish()

    def _begin(self) -> None:
        head = self._read = self.head
        if head.length is not None and head.length > self._max_size:
            raise TooLarge(f"the answer announces {head.length} bytes, more than {self._max_size}")
        encoding = head.headers.get("content-encoding", "identity").lower()
        if encoding in ("gzip", "x-gzip"):
            self._inflate = _Inflation(self._max_size)
        elif encoding not in ("identity", ""):
            raise BadResponse("a content encoding nobody asked for")
        self._sink.begin(head, self._flow)

    def _write_inflated(self, inflation: _Inflation, piece: bytes) -> None:
        inflated = inflation.inflate(piece)
        if inflated:
            self._sink.write(inflated)

    def _finish(self) -> None:
        if self._inflate is not None and self._received and not self._inflate.complete:
            raise BadResponse("the compressed answer is cut off")


class _Inflation:
    """Gzip, with a bound on what comes out of it."""

    def __init__(self, most: int) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self._most = most
        self._in = 0
        self._out = 0

    @property
    def complete(self) -> bool:
        return self._zlib.eof

    def inflate(self, data: bytes) -> bytes:
        self._in += len(data)
        try:
            inflated = self._zlib.decompress(data, min(self._most - self._out + 1, SUSPICIOUS_BYTES))
            pieces = [inflated]
            self._count(inflated)
            while self._zlib.unconsumed_tail:
                inflated = self._zlib.decompress(
                    self._zlib.unconsumed_tail, min(self._most - self._out + 1, SUSPICIOUS_BYTES)
                )
                self._count(inflated)
                pieces.append(inflated)
        except zlib.error as error:
            raise BadResponse("the answer is not what its content encoding says") from error
        return b"".join(pieces)

    def _count(self, inflated: bytes) -> None:
        self._out += len(inflated)
        if self._out > self._most:
            raise TooLarge(f"the answer inflates to more than {self._most} bytes")
        if self._out > SUSPICIOUS_BYTES and self._out > MAX_INFLATION * self._in:
            raise TooLarge("the answer inflates beyond measure")
