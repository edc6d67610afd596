# SPDX-License-Identifier: Apache-2.0
"""One request and its response on a connection.

Owns gathering the body under its limits, and writing the response: status, headers, body in one go. What to answer is
`site`'s, where one request ends and the next begins `channel`'s.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO, Final

import orjson
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from homeserver.errors import InvalidParam, LimitExceeded, MatrixError, TooLarge, Unknown
from homeserver.spooling import Spool, SpoolFull
from homeserver.web.files import FileStream, Part
from homeserver.web.heads import Fields
from homeserver.web.putting_off import retry_after
from homeserver.web.replies import CORS, JSON, REASONS, FileReply
from homeserver.web.routing import Match, WrongMethod
from homeserver.web.signals import Signal

if TYPE_CHECKING:
    from homeserver.web.channel import Channel

log = logging.getLogger(__name__)

#: Of a body for a path that is not there.
_UNWANTED_BODY: Final = 64 * 1024
#: Milliseconds that whoever is refused for want of room is told to wait.
BUSY_MS: Final = 2000
_STATUS_LINES: Final = {
    status: f"HTTP/1.1 {status} {reason}\r\n".encode("ascii") for status, reason in REASONS.items()
}
COMMON: Final = "".join(
    f"{name}: {value}\r\n" for name, value in {"Server": "Lares", **CORS}.items()
).encode()
JSON_HEAD: Final = f"Content-Type: {JSON}\r\nCache-Control: no-store\r\nContent-Length: ".encode()
#: Status codes whose responses have no body and no Content-Length (RFC 9110 section 8.6).
_BODILESS: Final = frozenset({204, 304})


class Exchange:
    """A request that is coming in or being answered.

    What few requests have stands in the class until it is set: an object per request is made as small as it can be.
    """

    id = ""
    label = "unmatched"
    user: str | None = None
    match: Match | None = None
    allowed: tuple[str, ...] = ()
    """The methods of a path that is there, where this one is none of them."""
    invalid: dict[str, object] | None = None
    """The error object, where the path cannot be read."""
    spool: Spool | None = None
    limit = _UNWANTED_BODY
    started = 0.0
    is_newest = True
    """Whether it is of HTTP/1.1 (else 1.0)."""
    responded = False
    complete = False
    """Whether all of the request is here; a spooled body is then the site's."""
    gone = False
    """Whether the client went away before it was answered."""
    _body: bytes | bytearray = b""
    _received = 0
    _running: Deferred[None] | None = None
    _disconnected: Signal | None = None

    def __init__(self, channel: "Channel", method: str, target: bytes, fields: Fields) -> None:
        self.channel: Channel | None = channel
        self._site = channel.site
        self.method = method
        self.target = target
        self.fields = fields
        path, _, self.query = target.partition(b"?")
        self.path = path if path[:1] == b"/" else _origin_form(path)

    @property
    def disconnected(self) -> Signal:
        """Fires when the client goes away before it is answered."""
        signal = self._disconnected
        if signal is None:
            signal = self._disconnected = Signal()
            if self.gone:
                signal.fire()
        return signal

    # From the channel

    def begin(self, length: int | None) -> bool:
        """The head is complete; a body of `length` bytes follows (None: nobody knows). False: it was refused."""
        site = self._site
        self.started = site.clock.seconds()
        if self.method != "OPTIONS":
            try:
                self.match = match = site.router.match(self.method, self.path)
            except WrongMethod as error:  # the error itself would keep this frame, and it the exchange
                self.allowed = error.allowed
            except InvalidParam as error:
                self.invalid = error.as_dict()
            else:
                if match is not None:
                    route = match.route
                    self.label = route.label
                    if route.spool:
                        return self._begin_spool(length)
        return length == 0 or self._may_bring(length)

    def receive(self, data: bytes) -> None:
        """A part of the body."""
        if self.responded or self.channel is None:
            return
        if self._received + len(data) > self.limit:
            self._refuse_body()
            return
        if self.spool is not None:
            self._to_spool(self.spool, data)
            return
        if not self._site.may_buffer(self, len(data)):
            self.refuse(429, LimitExceeded(BUSY_MS, "The server is busy with other requests' bodies"))
            return
        # One buffer: a list of what arrives would take thirty times the room when it arrives in chunks of two bytes.
        if not self._body:
            self._body = data
        elif isinstance(self._body, bytearray):
            self._body += data
        else:
            self._body = bytearray(self._body) + data
        self._received += len(data)

    @property
    def received(self) -> int:
        """Bytes of the body so far."""
        return self._received

    def lose(self) -> None:
        """The client is gone."""
        self.channel = None
        self._let_go()
        self.gone = True
        if self._disconnected is not None:
            self._disconnected.fire()
        if self._running is not None and self.match is not None and self.match.route.abandon:
            self._running.cancel()

    def _may_bring(self, length: int | None) -> bool:
        if self.match is not None:
            self.limit = self._site.body_limit(self.match.route)
        if length is not None and length > self.limit:
            self._refuse_body()
            return False
        return True

    def _begin_spool(self, length: int | None) -> bool:
        assert self.channel is not None
        if not self._may_bring(length):
            return False
        try:
            self.spool = self._site.open_spool(self.limit)
        except OSError as error:
            self._cannot_spool(error)
            return False
        if length != 0:
            self._site.admit(self, self.channel)
        return True

    def spool_of(self, user_id: str) -> None:
        """It is known whose the body is."""
        if self.spool is not None:
            self.spool.belongs_to(user_id)

    def _to_spool(self, spool: Spool, data: bytes) -> None:
        try:
            spool.write(data)
        except SpoolFull:
            self.refuse(429, LimitExceeded(BUSY_MS, "The server is busy with other uploads"))
        except OSError as error:
            self._cannot_spool(error)
        else:
            self._received += len(data)

    def _cannot_spool(self, error: OSError) -> None:
        log.error("a body cannot be kept", exc_info=error)
        self.refuse(500, Unknown("The server cannot keep this now"))

    # From the site

    def take_body(self) -> bytes:
        """The body, which from then on is the caller's to keep; it counts as held until the response is written."""
        body, self._body = bytes(self._body), b""
        return body

    def runs(self, work: Deferred[None]) -> None:
        """What is cancelled for a client that goes away, where the route allows it."""
        self._running = work

    def hand_over(self) -> "Channel | None":
        """Give up the connection to another protocol; None if the client is gone."""
        channel, self.channel = self.channel, None
        self.responded = True
        self._let_go()
        return channel

    def respond(self, response: bytes, now: float) -> None:
        """Write a whole response, made at `now`. Nothing is written to a client that is gone."""
        channel = self.channel
        if self.responded or channel is None:
            return
        self.responded = True
        self.channel = self._running = None
        if self._received:
            self._let_go()
        channel.transport.write(response)
        channel.request_done(now)

    async def stream(self, part: Part, reply: FileReply, file: BinaryIO) -> None:
        """Write a response that is a file, or the part of it that begins where it stands; then close the file."""
        self._running = None
        channel = self.channel
        if self.responded or channel is None:
            await deferToThread(file.close)
            return
        length = part.length + len(reply.before) + len(reply.after)
        head = self.head(part.status, length, part.headers)
        self.responded = True
        self._let_go()
        channel.transport.write(head + reply.before)
        try:
            complete = await FileStream(channel, file, part.length, self.disconnected).run()
        except OSError as error:
            complete = False
            log.error("a file cannot be read", exc_info=error)
        self.channel = None
        if self.gone:
            return
        if not complete:  # a length was promised: only the connection's end says that it is not kept
            log.error("a file was not sent whole", extra={"fields": {"file": str(reply.path)}})
            channel.transport.abortConnection()
            return
        channel.transport.write(reply.after)
        channel.request_done(self._site.clock.seconds())

    def refuse(self, status: int, error: MatrixError) -> None:
        """Answer before the request is complete, and give up the connection."""
        channel = self.channel
        if self.responded or channel is None:
            return
        self.responded = True
        self._let_go()
        channel.persistent = False
        headers = retry_after(error.retry_after_ms) if isinstance(error, LimitExceeded) else None
        channel.transport.write(self.response(status, orjson.dumps(error.as_dict()), headers))
        channel.site.refused(self, status)
        channel.drop_rest()

    def response(self, status: int, body: bytes, headers: Mapping[str, str] | None) -> bytes:
        """The bytes of a response; `headers` None: it is JSON. Raises ValueError for a header that cannot be."""
        head = self.head(status, len(body), headers)
        return head if self.method == "HEAD" or status in _BODILESS else head + body

    def head(self, status: int, length: int, headers: Mapping[str, str] | None) -> bytes:
        """The bytes of a response up to its body of `length`, as `response` makes them."""
        channel = self.channel
        assert channel is not None
        parts = [_STATUS_LINES[status], channel.site.date_line(), COMMON]
        if headers is None:
            parts.append(JSON_HEAD)
        else:
            parts.extend(_header(name, value) for name, value in headers.items())
            if status not in _BODILESS:
                parts.append(b"Content-Length: ")
        if status not in _BODILESS:
            parts.append(b"%d\r\n" % length)
        if not channel.persistent:
            parts.append(b"Connection: close\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def _let_go(self) -> None:
        """Forget the body."""
        if self.spool is not None:
            if not self.complete:
                self.spool.discard()
        else:
            self._site.buffered -= self._received
        self._received = 0
        self._body = b""

    def _refuse_body(self) -> None:
        self.refuse(413, TooLarge(f"The request body is larger than {self.limit} bytes"))


def _header(name: str, value: str) -> bytes:
    """One header line. A line break would let the value write headers of its own."""
    if "\r" in value or "\n" in value:
        raise ValueError(f"line break in the {name} header")
    return f"{name}: {value}\r\n".encode("latin-1")


def _origin_form(target: bytes) -> bytes:
    """The path of a target in absolute form (RFC 9112 section 3.2.2), or `/` for what names no path."""
    _, separator, rest = target.partition(b"://")
    slash = rest.find(b"/")
    return rest[slash:] if separator and slash >= 0 else b"/"
