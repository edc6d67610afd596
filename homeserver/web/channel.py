# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802, N815 (Twisted's names)
"""One connection: Twisted's HTTP/1.1 parser with deadlines, JSON refusals and a way out of HTTP.

Owns the connection between requests: how long a client may take, what is answered to bytes that are no HTTP, what
becomes of a body nobody wants, the hand-over to another protocol. A request and its response are `exchange`'s.

Deadlines are absolute per phase (Twisted's own idle timer starts anew with each byte, so a byte a minute would hold a
connection for ever): a request line and headers get `Timeouts.headers` seconds, a body a grace and a least rate,
silence between requests `Timeouts.idle`. One timer per connection looks at the deadline now and then, which is cheaper
than two timers per request and means a deadline is held only to within `Timeouts.look`.
"""

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final

from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from homeserver.errors import MatrixError, TooLarge, Unknown, Unrecognized
from homeserver.web.exchange import Exchange
from homeserver.web.replies import BuildProtocol

if TYPE_CHECKING:
    from homeserver.web.site import Site

_MOST_HEADERS: Final = 100
_LARGEST_LINE: Final = 32 * 1024
_LARGEST_HEAD: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a client may take, in seconds."""

    headers: float = 30.0
    """From the first byte of a request, or the connection's start, to the end of its headers."""
    body_grace: float = 30.0
    """For a body of any size; beyond it, at least `body_rate` bytes a second."""
    body_rate: float = 2048.0
    idle: float = 75.0
    """Between requests."""
    unread: float = 600.0
    """For reading a response that the socket's buffer does not hold."""
    linger: float = 5.0
    """How long what follows a refused request is read and dropped, so that the refusal is not lost to a reset."""
    look: float = 5.0


class Channel(HTTPChannel):
    """One connection of a `Site`."""

    MAX_LENGTH = _LARGEST_LINE
    totalHeadersSize = _LARGEST_HEAD
    maxHeaders = _MOST_HEADERS
    requestFactory = Exchange  # type: ignore[assignment]
    timeOut = None  # deadlines below instead
    transport: Any
    _networkProducer: Any
    _command: Any
    _path: Any
    _version: Any

    def __init__(self, site: "Site") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.site = site
        self.deadline = inf
        self._look_call: Any = None
        self._closing = False
        self._saying_goodbye = False
        self._holds_next = False
        self._owes_continue = False
        self._body_started = 0.0

    # From the transport

    def connectionMade(self) -> None:
        super().connectionMade()  # type: ignore[no-untyped-call]
        self.deadline = self.site.clock.seconds() + self.site.timeouts.headers
        self._look_call = self.site.clock.callLater(self.site.timeouts.look, self._look)
        self.site.connections.add(self)

    def dataReceived(self, data: bytes) -> None:
        LineReceiver.dataReceived(self, data)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self._gone()

    def _gone(self) -> None:
        self.deadline = inf
        if self._look_call is not None:
            self._look_call.cancel()
            self._look_call = None
        self.site.connections.discard(self)

    # Deadlines

    def request_begins(self) -> None:
        """The first line of a request is here."""
        self.deadline = self.site.clock.seconds() + self.site.timeouts.headers

    def body_arrives(self, received: int) -> None:
        """So many bytes of the body are here, 0 when it is expected."""
        timeouts = self.site.timeouts
        if received == 0:
            self._body_started = self.site.clock.seconds()
        self.deadline = self._body_started + timeouts.body_grace + received / timeouts.body_rate

    def is_read(self) -> None:
        """The client reads a response that is long; it may take `idle` for the next piece."""
        self.deadline = self.site.clock.seconds() + self.site.timeouts.idle

    def hold_body(self) -> None:
        """Read no more of the body for now."""
        self._networkProducer.pauseProducing()

    def go_on_with_body(self) -> None:
        """Read on, and tell a client that waits for that to go on, unless the request was refused."""
        if self.transport is None or self.transport.disconnecting:
            return
        self._tell_to_continue()
        if not self._waitingForTransport:
            self._networkProducer.resumeProducing()

    def _tell_to_continue(self) -> None:
        if self._owes_continue and self.requests and not self.requests[-1].responded:
            self._send100Continue()  # type: ignore[no-untyped-call]
        self._owes_continue = False

    def _look(self) -> None:
        timeouts, now = self.site.timeouts, self.site.clock.seconds()
        self._look_call = self.site.clock.callLater(timeouts.look, self._look)
        if now < self.deadline:
            return
        if self._saying_goodbye:
            self.transport.abortConnection()
        elif self.requests and not self._handlingRequest and not self.requests[-1].responded:
            self._refuse_bytes(408, Unknown("The request did not arrive in time"))
        elif not self._waitingForTransport or now >= self.deadline + timeouts.unread:
            self._saying_goodbye = True
            self.deadline = now + timeouts.linger
            self.loseConnection()  # type: ignore[no-untyped-call]

    # From the parser

    def headerReceived(self, line: bytes) -> bool:
        try:
            return bool(super().headerReceived(line))  # type: ignore[no-untyped-call]
        except ValueError:  # a Content-Length of thousands of digits, which Python does not read
            self._respondToBadRequestAndDisconnect()
            return False

    def allHeadersReceived(self) -> None:
        exchange: Exchange = self.requests[-1]
        closes = any(
            token.strip().lower() == b"close"
            for value in exchange.requestHeaders.getRawHeaders(b"Connection", ())
            for token in value.split(b",")
        )
        self.persistent = self._version == b"HTTP/1.1" and not closes and not self._closing
        expect = exchange.requestHeaders.getRawHeaders(b"Expect")
        self._owes_continue = bool(
            self.length != 0
            and expect
            and expect[-1].lower() == b"100-continue"
            and self._version == b"HTTP/1.1"
        )
        if not exchange.headers_received(self._command, self._path, self.length) or exchange.responded:
            return
        if self.length != 0:
            self.body_arrives(0)
            if exchange.spool is None:  # else it is told when it is known whose the body is
                self._tell_to_continue()

    def allContentReceived(self) -> None:
        self._owes_continue = False
        if not self.requests[-1].responded:  # what was refused goes on to be dropped, for a moment
            self.deadline = inf
        super().allContentReceived()  # type: ignore[no-untyped-call]

    def requestDone(self, request: Exchange) -> None:
        self.deadline = self.site.clock.seconds() + self.site.timeouts.idle
        if self.persistent and self._waitingForTransport:
            # Twisted would go on: who pipelines and does not read would have every response made and kept.
            self.requests.remove(request)
            self._holds_next = True
        else:
            super().requestDone(request)  # type: ignore[no-untyped-call]

    def resumeProducing(self) -> None:
        if self._holds_next:
            self._holds_next = False
            self._handlingRequest = False
            buffered = b"".join(self._dataBuffer)
            self._dataBuffer = []
            super().resumeProducing()  # type: ignore[no-untyped-call]
            self.setLineMode(buffered)  # type: ignore[no-untyped-call]
        else:
            super().resumeProducing()  # type: ignore[no-untyped-call]

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse_bytes(431, TooLarge("The request line or a header is too long"))

    def _respondToBadRequestAndDisconnect(self) -> None:
        self._refuse_bytes(400, Unrecognized("This is not a valid HTTP request"))

    # Endings

    def _refuse_bytes(self, status: int, error: MatrixError) -> None:
        """Answer bytes that could not become a request."""
        exchange = self.requests[-1] if self.requests else Exchange(self)
        exchange.refuse(status, error)

    def drop_rest(self) -> None:
        """The refusal is written; read on for a moment, drop what comes, then close."""
        if self.transport is None or self.transport.disconnecting:
            return
        self.persistent = False
        self.lineReceived = self.rawDataReceived = self._drop  # type: ignore[method-assign]
        self.setRawMode()  # type: ignore[no-untyped-call]
        self.deadline = self.site.clock.seconds() + self.site.timeouts.linger
        self._networkProducer.resumeProducing()

    def _drop(self, data: bytes) -> None:
        """What a refused request brings after its refusal."""

    def finish_soon(self) -> None:
        """Close after the exchange that is running, or now."""
        self._closing = True
        self.persistent = False
        if not self.requests and (self._holds_next or not self._handlingRequest):
            self.loseConnection()  # type: ignore[no-untyped-call]

    def drop_unfinished(self) -> None:
        """Cut off a request that has only begun to arrive: nothing was done of it, so it may be sent again."""
        if self.requests and not self._handlingRequest and not self._saying_goodbye:
            self.transport.abortConnection()

    def hand_over(self, build: BuildProtocol, first: bytes) -> None:
        """Give the connection to another protocol, which gets `first` and then all that was and will be read."""
        transport, self.deadline = self.transport, inf
        buffered = b"".join(self._dataBuffer)
        self._dataBuffer = []
        self.requests.clear()
        self._networkProducer.unregisterProducer()
        protocol = build(transport.getPeer())

        def lost(reason: Failure) -> None:
            self._gone()
            protocol.connectionLost(reason)

        self.rawDataReceived = protocol.dataReceived  # type: ignore[method-assign]
        self.dataReceived = protocol.dataReceived  # type: ignore[method-assign]
        self.connectionLost = lost  # type: ignore[method-assign]
        protocol.makeConnection(transport)
        protocol.dataReceived(first + buffered)
        if not transport.disconnecting:
            self._networkProducer.resumeProducing()
