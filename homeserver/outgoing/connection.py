# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 connection to another machine, for one request after the other.

Owns the socket: it is ready once TCP, TLS and the check of the certificate's name are done, and nothing is sent before.
Does not own how many connections there are (`pool`), nor where they lead (`connecting`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLClientConnectionCreator, IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

from homeserver.outgoing.errors import ConnectionBroken, OutgoingError, TimedOut
from homeserver.outgoing.exchange import Answer, Sink
from homeserver.outgoing.parsing import ResponseHead
from homeserver.outgoing.tls import Handshake, TlsPolicy

#: Bytes that are written at once; larger requests go in pieces, each of them a sign of life when it has left.
_SURELY_SENT: Final = 64 * 1024


@implementer(IOpenSSLClientConnectionCreator)
class TlsCreator:
    """Begins the handshake of one connection."""

    def __init__(self, policy: TlsPolicy, handshake: Handshake, now: float) -> None:
        self._policy = policy
        self._handshake = handshake
        self._now = now

    def clientConnectionForTLS(self, _protocol: object) -> SSL.Connection:  # noqa: N802
        """As Twisted asks for it."""
        return self._policy.connection(self._handshake, self._now)


@implementer(IHandshakeListener)
class HttpConnection(Protocol):
    """A connection. `ready` is called once, with None or with why it never will be; `gone` once, at its end."""

    def __init__(
        self,
        clock: Any,
        *,
        tls: TlsPolicy,
        handshake: Handshake | None,
        ready: Callable[[OutgoingError | None], None],
    ) -> None:
        self._clock = clock
        self._tls = tls
        self._handshake = handshake
        self._ready: Callable[[OutgoingError | None], None] | None = ready
        self._session_kept = handshake is None
        self._answer: Answer | None = None
        self._waiter: Deferred[ResponseHead] | None = None
        self._paused = False
        self._last_sign = 0.0
        self._stall = 0.0
        self._stall_timer: Any = None
        self._may_reuse = True
        self._ended = False
        self._upload: _Upload | None = None
        self.gone: Callable[[], None] | None = None
        self.open = False
        """Whether it is ready and has not ended."""
        self.made_at = clock.seconds()
        self.used = False
        """Whether a request went over it already."""
        self.idle_seconds: float | None = None
        """How long the other side says it keeps it, if it does."""

    # Becoming ready.

    def connectionMade(self) -> None:  # noqa: N802
        """TCP stands; without TLS that is all."""
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        if self._handshake is None:
            self._become_ready()

    def handshakeCompleted(self) -> None:  # noqa: N802
        """TLS stands; now the name."""
        transport: Any = self.transport
        assert self._handshake is not None
        try:
            self._tls.check(transport.getHandle(), self._handshake)
        except OutgoingError as error:
            self._tls.forget(self._handshake)
            self._never_ready(error)
            return
        self._become_ready()

    def _become_ready(self) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            self.open = True
            ready(None)

    def _never_ready(self, error: OutgoingError) -> None:
        ready, self._ready = self._ready, None
        self.abort()
        if ready is not None:
            ready(error)

    # A request.

    async def exchange(
        self, data: bytes, *, method: str, max_size: int, stall: float, sink: Sink
    ) -> ResponseHead:
        """Send a request and give its answer to the sink; the head, when the answer is complete.

        Raises OutgoingError and what the sink raises. Unless it returns, the connection is aborted, also when
        cancelled. Afterwards `reusable` says whether it may be used again.
        """
        transport: Any = self.transport
        self.used = True
        self._answer = Answer(method, max_size, sink, self)
        self._may_reuse = True
        waiter = self._waiter = Deferred(lambda _: self.abort())
        self._stall = stall
        self._last_sign = self._clock.seconds()
        self._watch()
        if len(data) <= _SURELY_SENT:
            transport.write(data)
        else:
            self._upload = _Upload(data, transport, self._sign_of_life)
        try:
            return await waiter
        finally:
            self._rest()

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        return self.open and self._answer is None and self._may_reuse

    def abort(self) -> None:
        """End it now, without a word."""
        transport: Any = self.transport
        self.open = False
        if transport is not None and not self._ended:
            transport.abortConnection()

    def pause(self) -> None:
        """The sink is full."""
        transport: Any = self.transport
        self._paused = True
        transport.pauseProducing()

    def resume(self) -> None:
        """The sink takes more."""
        transport: Any = self.transport
        if self._paused:
            self._paused = False
            self._last_sign = self._clock.seconds()
            transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Part of an answer; out of turn it ends the connection."""
        answer = self._answer
        if answer is None:
            self.abort()
            return
        self._last_sign = self._clock.seconds()
        try:
            answer.feed(data)
        except Exception as error:  # of the sink, too: whatever it is, it is the caller's
            self._fail(error)
            return
        if answer.done:
            sent = self._upload is None or self._upload.complete
            self._may_reuse = sent and answer.reusable
            self._succeed(answer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        """The end, of our making or the other side's."""
        self.open = False
        self._ended = True
        if self._ready is not None:
            self._lost_before_ready(reason)
        answer = self._answer
        if answer is not None and self._waiter is not None:
            try:
                answer.end(cleanly=isinstance(reason.value, ConnectionDone))
            except Exception as error:
                self._fail(error)
            else:
                self._succeed(answer)
        gone, self.gone = self.gone, None
        if gone is not None:
            gone()

    def _lost_before_ready(self, reason: Failure) -> None:
        if self._handshake is None:
            error: OutgoingError = ConnectionBroken("the connection ended at once", answered=False)
        else:
            self._tls.forget(self._handshake)
            error = self._handshake.failure(reason.value)
        self._never_ready(error)

    def _succeed(self, answer: Answer) -> None:
        waiter, self._waiter = self._waiter, None
        self._answer = None
        self._keep_session()
        self.idle_seconds = _kept_for(answer.head)
        if waiter is not None:
            waiter.callback(answer.head)

    def _fail(self, error: Exception) -> None:
        waiter, self._waiter = self._waiter, None
        self.abort()
        if waiter is not None:
            waiter.errback(error)

    def _sign_of_life(self) -> None:
        self._last_sign = self._clock.seconds()

    def _rest(self) -> None:
        self._waiter = None
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.stopProducing()
        if self._answer is not None:
            self._answer = None
            self._may_reuse = False
        if self._paused:  # nobody will resume what nobody waits for
            self.resume()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _keep_session(self) -> None:
        # Not right after the handshake: with TLS 1.3 the ticket comes behind it.
        if not self._session_kept and self._handshake is not None:
            self._session_kept = True
            transport: Any = self.transport
            self._tls.remember(transport.getHandle(), self._handshake, self._clock.seconds())

    def _watch(self) -> None:
        """One timer per request: it looks when the last sign of life was, rather than be set anew by each."""
        self._stall_timer = None
        now = self._clock.seconds()
        if self._paused:
            self._last_sign = now
        left = self._last_sign + self._stall - now
        if left <= 0:
            self._fail(TimedOut(f"nothing came for {self._stall:g} seconds"))
            return
        self._stall_timer = self._clock.callLater(left, self._watch)


@implementer(IPullProducer)
class _Upload:
    """A large request on its way: the next piece is written when the one before has left."""

    def __init__(self, data: bytes, transport: Any, sign_of_life: Callable[[], None]) -> None:
        self._data = memoryview(data)
        self._transport = transport
        self._sign_of_life = sign_of_life
        transport.registerProducer(self, False)

    @property
    def complete(self) -> bool:
        return not self._data

    def resumeProducing(self) -> None:  # noqa: N802
        self._sign_of_life()
        piece, self._data = self._data[:_SURELY_SENT], self._data[_SURELY_SENT:]
        if not self._data:
            self._transport.unregisterProducer()
        self._transport.write(bytes(piece))

    def stopProducing(self) -> None:  # noqa: N802
        """The answer came first, or the end."""
        if self._data:
            self._data = memoryview(b"")
            self._transport.unregisterProducer()


def _kept_for(head: ResponseHead) -> float | None:
    """The seconds of `Keep-Alive: timeout=…`, less one for the way."""
    for word in head.headers.get("keep-alive", "").split(","):
        name, _, value = word.strip().partition("=")
        if name.lower() == "timeout" and value.isdecimal() and len(value) < 6:
            return max(0.0, float(value) - 1.0)
    return None
