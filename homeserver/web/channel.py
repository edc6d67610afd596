# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 (Twisted's names)
"""One connection of HTTP/1.1: where one request ends and the next begins, under deadlines and limits.

Owns the connection between requests: how long a client may take, what is answered to bytes that are no HTTP, what
becomes of a body nobody wants, the hand-over to another protocol. A request and its response are `exchange`'s, what a
head says is `heads`'s.

Nearly every request comes whole, in one piece: then its head is found, taken apart and answered where it stands, and
nothing is kept. Fields that are those of the last request on the connection, but for the length, are not taken apart
again. Twisted's own
channel goes by lines, which took longer than all else of a small request.

Requests on one connection are answered one after the other. What comes meanwhile waits; beyond a little of it no more
is read.

A client that sends no more, as scripts that pipe a request into `nc`, may have closed its half of the connection or all
of it; which of them shows only when something is written. What it asked in full is answered, but for what only waits
(`Site.goes_on_for`); then the connection is closed. Over TLS the end of one half is the end, as Twisted has it.

Deadlines are absolute per phase: a head gets `Timeouts.headers` seconds, a body a grace and a least rate, within
`Timeouts.body_held` where it takes memory, silence between requests `Timeouts.idle`. The site looks at all of them now
and then, which is cheaper than two timers per request and means a deadline is held only to within `Timeouts.look`.
"""

from math import inf
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from twisted.internet.interfaces import IHalfCloseableProtocol, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

from homeserver.errors import MatrixError, TooLarge, Unknown, Unrecognized
from homeserver.web.chunks import BadChunks, Chunks
from homeserver.web.crowding import unread_bytes
from homeserver.web.exchange import Exchange
from homeserver.web.heads import BadHead, Fields, apart_from_length, read_line
from homeserver.web.replies import BuildProtocol

if TYPE_CHECKING:
    from homeserver.web.files import FileStream
    from homeserver.web.site import Site

_LARGEST_LINE: Final = 32 * 1024
_LARGEST_HEAD: Final = 64 * 1024
#: Bytes of the requests after the one that is being answered.
_MOST_AHEAD: Final = 16 * 1024
#: Bytes of a head's fields that are kept for the next head.
_MOST_KEPT: Final = 4 * 1024
_LINE_END: Final = b"\r\n"
_HEAD_END: Final = b"\r\n\r\n"
_CR: Final = 13

#: What the next bytes are: of a head, of a body, of requests whose turn has not come, of a request that was refused,
#: of no request at all, of another protocol.
_HEAD, _BODY, _AHEAD, _REFUSED, _NOTHING, _OTHERS = range(6)


class Timeouts(Struct, frozen=True, kw_only=True):
    """How long a client may take, in seconds."""

    headers: float = 30.0
    """From the first byte of a request, or the connection's start, to the end of its headers."""
    body_grace: float = 30.0
    """For a body of any size; beyond it, at least `body_rate` bytes a second."""
    body_rate: float = 2048.0
    body_held: float = 180.0
    """For a body that is held in memory, of any size; one that goes to disk may take as long as its rate allows."""
    idle: float = 75.0
    """Between requests."""
    unread: float = 600.0
    """For reading a response that the socket's buffer does not hold."""
    linger: float = 5.0
    """How long what follows a refused request is read and dropped, so that the refusal is not lost to a reset."""
    look: float = 5.0


@implementer(IHalfCloseableProtocol)
class Channel(Protocol):
    """One connection of a `Site`."""

    transport: Any
    deadline = inf
    persistent = True
    """Whether the connection stays after the request that is here."""
    exchange: Exchange | None = None
    """The request that is coming in or being answered."""
    peer = ""
    """The other end's address."""
    _next = _HEAD
    _reading = False
    _block: bytes | None = None
    _rest: bytes | None = None
    _fields: Fields
    _length: int | None = 0
    _searched = 0
    _line_start = 0
    _line_is_good = False
    _after_empty_line = False
    _left = 0
    _chunks: Chunks | None = None
    _body_started = 0.0
    _owes_continue = False
    _other: Any = None
    _stream: "FileStream | None" = None
    _paused = False
    _full = False
    """Whether the client does not read what it is sent."""
    _holds_next = False
    _closing = False
    _ended = False
    """Whether nothing more will come."""
    _saying_goodbye = False

    def __init__(self, site: "Site") -> None:
        self.site = site
        # The beginning of a head, or requests whose turn has not come.
        self._held = bytearray()

    # From the transport

    def connectionMade(self) -> None:
        transport = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        self.peer = getattr(transport.getPeer(), "host", "")
        transport.registerProducer(self, True)
        self.deadline = self.site.clock.seconds() + self.site.timeouts.headers
        self.site.opened(self)

    def dataReceived(self, data: bytes) -> None:
        """Requests out of these bytes, one after the other, until one has to be waited for."""
        self._reading = True
        try:
            while data:
                if self._next == _HEAD:
                    data = self._read_head(data)
                elif self._next == _BODY:
                    data = self._read_body(data)
                else:
                    self._read_other(data)
                    return
        finally:
            self._reading = False

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        other, self._other = self._other, None
        exchange, self.exchange = self.exchange, None
        self._next = _NOTHING
        self.deadline = inf
        self.site.closed(self)
        if exchange is not None:
            exchange.lose()
        if other is not None:
            other.connectionLost(reason)

    def readConnectionLost(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._go_to_end()

    def writeConnectionLost(self) -> None:
        """Never: both halves are closed together."""

    def _go_to_end(self) -> None:
        """Nothing more will come: close, unless there is something to be answered, or sent, first."""
        if self._next == _AHEAD and (
            self._holds_next or (self.exchange is not None and self.site.goes_on_for(self.exchange))
        ):
            return  # it comes back to here
        if self._next == _OTHERS or not unread_bytes(self.transport):
            self.transport.connectionLost(connectionDone)
        elif self._next != _NOTHING:
            self._lose()

    def pauseProducing(self) -> None:
        """The client does not read what it is sent: nothing more is read from it, too."""
        self._full = True
        if self._stream is not None:
            self._stream.pauseProducing()
        if self._next != _AHEAD:
            self._pause()

    def resumeProducing(self) -> None:
        """What was to be sent is sent."""
        self._full = False
        if self._stream is not None:
            self._stream.resumeProducing()
        if self._holds_next:
            self._holds_next = False
            self.deadline = self.site.clock.seconds() + self.site.timeouts.idle
            self._read_next()
        elif self._next != _AHEAD:
            self._resume()

    def stopProducing(self) -> None:
        """The connection ends."""
        if self._stream is not None:
            self._stream.stopProducing()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pauseProducing()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()

    # Heads

    def _read_head(self, data: bytes) -> bytes:
        """What follows the head that these bytes complete."""
        if data[0] == _CR or self._held or self._after_empty_line:
            return self._read_pieces(data)
        end = data.find(_HEAD_END)
        if end < 0:
            self._held += data
            self._look_at_piece()
            return b""
        return self._take_head(data, end)

    def _read_pieces(self, data: bytes) -> bytes:
        held = self._held
        held += data
        if not self._after_empty_line and held.startswith(_LINE_END):
            # One empty line may follow a request (RFC 9112 section 2.2).
            self._after_empty_line = True
            del held[:2]
        end = held.find(_HEAD_END, self._searched)
        if end < 0:
            self._look_at_piece()
            return b""
        data = bytes(held)
        held.clear()
        self._searched = self._line_start = 0
        self._line_is_good = self._after_empty_line = False
        return self._take_head(data, end)

    def _look_at_piece(self) -> None:
        """Part of a head is here. What is no request is refused before all of it is."""
        held = self._held
        if not held:
            return
        if not self._searched:
            self.deadline = self.site.clock.seconds() + self.site.timeouts.headers
        if not self._line_is_good:
            end = held.find(_LINE_END)
            if 0 <= end <= _LARGEST_LINE:
                try:
                    read_line(bytes(held[:end]))
                except BadHead:
                    self._refuse_nonsense()
                    return
                self._line_is_good = True
        line_end = held.rfind(_LINE_END, self._line_start)
        if line_end >= 0:
            self._line_start = line_end + 2
        self._searched = max(0, len(held) - 3)
        if len(held) - self._line_start > _LARGEST_LINE:
            self._refuse_long_line()
        elif len(held) > _LARGEST_HEAD:
            self._refuse_nonsense()

    def _take_head(self, data: bytes, end: int) -> bytes:
        head = data[:end]
        if end > _LARGEST_LINE:
            if any(len(line) > _LARGEST_LINE for line in head.split(_LINE_END)):
                self._refuse_long_line()
                return b""
            if end > _LARGEST_HEAD:
                self._refuse_nonsense()
                return b""
        line, _, block = head.partition(_LINE_END)
        try:
            method, target, is_newest = read_line(line)
            if block == self._block:
                fields, length = self._fields, self._length
            else:
                fields, length = self._take_fields(block)
            if is_newest and not fields.has_host:
                raise BadHead
        except BadHead:
            self._refuse_nonsense()
            return b""
        self.persistent = is_newest and not fields.closes and not self._closing
        exchange = self.exchange = Exchange(self, method, target, fields)
        if not is_newest:
            exchange.is_newest = False
        if length != 0:
            self._expect_body(exchange, length, is_newest)
        elif exchange.begin(0):
            self._complete(exchange)
        return data[end + 4 :]

    def _take_fields(self, block: bytes) -> tuple[Fields, int | None]:
        """What the lines after the first say, and the length of the body. Raises BadHead."""
        apart = apart_from_length(block)
        if apart is None:
            rest, fields = None, Fields(block)
            length = fields.length
        else:
            rest, length = apart
            fields = self._fields if rest == self._rest else Fields(rest)
            if fields.has_length or fields.length is None:
                raise BadHead
        if len(block) <= _MOST_KEPT:
            self._block, self._rest, self._fields, self._length = block, rest, fields, length
        return fields, length

    # Bodies

    def _expect_body(self, exchange: Exchange, length: int | None, is_newest: bool) -> None:
        self._next = _BODY
        if length is None:
            self._chunks = Chunks()
        else:
            self._left = length
        self._owes_continue = is_newest and exchange.fields.expects_continue
        if not exchange.begin(length) or exchange.responded:
            return
        timeouts = self.site.timeouts
        self._body_started = exchange.started
        self.deadline = exchange.started + timeouts.body_grace
        if exchange.spool is None:  # else it is told when it is known whose the body is
            self._tell_to_continue()

    def _read_body(self, data: bytes) -> bytes:
        """What follows the body that these bytes complete."""
        exchange = self.exchange
        assert exchange is not None
        content, rest = data, None
        if self._chunks is not None:
            try:
                content, rest = self._chunks.take(data)
            except BadChunks:
                self._refuse_nonsense()
                return b""
        elif len(data) < self._left:
            self._left -= len(data)
        else:
            content, rest = data[: self._left], data[self._left :]
        if content:
            exchange.receive(content)
        if exchange.responded:  # it was refused
            return b""
        if rest is None:
            timeouts = self.site.timeouts
            longest = timeouts.body_held if exchange.spool is None else inf
            allowed = min(timeouts.body_grace + exchange.received / timeouts.body_rate, longest)
            self.deadline = self._body_started + allowed
            return b""
        self._chunks = None
        self._owes_continue = False
        self._complete(exchange)
        return rest

    def hold_body(self) -> None:
        """Read no more of the body for now."""
        self._pause()

    def go_on_with_body(self, exchange: Exchange) -> None:
        """Read on, and tell a client that waits for that to go on, unless the request was refused, or answered already:
        what is read then is another's body."""
        if exchange is not self.exchange or self.transport.disconnecting or self._next == _NOTHING:
            return
        self._tell_to_continue()
        if not self._full:
            self._resume()

    def _tell_to_continue(self) -> None:
        if self._owes_continue and self.exchange is not None and not self.exchange.responded:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._owes_continue = False

    # Turns

    def _complete(self, exchange: Exchange) -> None:
        self._next = _AHEAD
        self.deadline = inf
        exchange.complete = True
        self.site.answer(exchange)

    def _read_other(self, data: bytes) -> None:
        """Bytes that are of no head and no body."""
        if self._next == _AHEAD:
            self._held += data
            if len(self._held) > _MOST_AHEAD:
                self._pause()
        elif self._next == _OTHERS:
            self._other.dataReceived(data)

    def request_done(self, now: float) -> None:
        """The request that was here is answered; the next one may be."""
        self.exchange = None
        self.deadline = now + self.site.timeouts.idle
        if not self.persistent:
            self._lose()
        elif self._full:  # else who pipelines and does not read would have every response made and kept
            self._holds_next = True
        else:
            self._read_next()

    def _read_next(self) -> None:
        self._next = _HEAD
        if self._paused:
            self._resume()
        if self._held and not self._reading:
            ahead = bytes(self._held)
            self._held.clear()
            self.dataReceived(ahead)
        if self._ended and not self._reading:
            self._go_to_end()

    # Deadlines

    def is_read(self) -> None:
        """The client reads a response that is long; it may take `idle` for the next piece."""
        self.deadline = self.site.clock.seconds() + self.site.timeouts.idle

    def overdue(self, now: float) -> None:
        """The deadline has passed."""
        timeouts = self.site.timeouts
        if self._saying_goodbye:
            self.transport.abortConnection()
        elif self._has_begun():
            self._refuse_bytes(408, Unknown("The request did not arrive in time"))
        elif not self._full or now >= self.deadline + timeouts.unread:
            self._saying_goodbye = True
            self.deadline = now + timeouts.linger
            self._lose()

    def _has_begun(self) -> bool:
        """Whether a request has begun to arrive and is not complete."""
        return self._next == _BODY or (self._next == _HEAD and bool(self._held))

    # Endings

    def feed_from(self, stream: "FileStream | None") -> None:
        """Who is told when the client does not read on."""
        self._stream = stream

    def _refuse_nonsense(self) -> None:
        self._refuse_bytes(400, Unrecognized("This is not a valid HTTP request"))

    def _refuse_long_line(self) -> None:
        self._refuse_bytes(431, TooLarge("The request line or a header is too long"))

    def _refuse_bytes(self, status: int, error: MatrixError) -> None:
        """Answer bytes that could not become a request."""
        exchange = self.exchange or Exchange(self, "", b"", Fields(b""))
        exchange.refuse(status, error)

    def drop_rest(self) -> None:
        """The refusal is written; read on for a moment, drop what comes, then close."""
        if self.transport.disconnecting:
            return
        self.persistent = False
        self.exchange = None
        self._next = _REFUSED
        self._held.clear()
        self.deadline = self.site.clock.seconds() + self.site.timeouts.linger
        self._resume()

    def finish_soon(self) -> None:
        """Close after the exchange that is running, or now."""
        self._closing = True
        self.persistent = False
        if self._holds_next or (self._next == _HEAD and not self._held):
            self._lose()

    def drop_unfinished(self) -> None:
        """Cut off a request that has only begun to arrive: nothing was done of it, so it may be sent again."""
        if (self._has_begun() or self._next == _REFUSED) and not self._saying_goodbye:
            self.transport.abortConnection()

    def _lose(self) -> None:
        self._next = _NOTHING
        self._held.clear()
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def hand_over(self, build: BuildProtocol, first: bytes) -> None:
        """Give the connection to another protocol, which gets `first` and then all that was and will be read."""
        transport, self.deadline = self.transport, inf
        held = bytes(self._held)
        self._held.clear()
        self.exchange = None
        transport.unregisterProducer()
        self._other = build(transport.getPeer())
        self._next = _OTHERS
        self.dataReceived = self._other.dataReceived  # type: ignore[method-assign]
        self._other.makeConnection(transport)
        self._other.dataReceived(first + held)
        if not transport.disconnecting:
            self._resume()
