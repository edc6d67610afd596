# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N803 (autobahn's names)
"""WebSocket itself: autobahn's protocol, tied to a session and to the transport's flow control.

Owns limits on frames, liveness, the subprotocol, and telling when the send buffer is full.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

from homeserver.clientapi.websocket.frames import LONGEST_FRAME, SUBPROTOCOL, text_frame
from homeserver.clientapi.websocket.session import GOING_AWAY, REPLACED, Peer, Session
from homeserver.sync.long_poll import Clock

PING_EVERY: Final = 54.0
PONG_WITHIN: Final = 60.0
"""Seconds."""
_CLOSE_WITHIN: Final = 10.0
"""Seconds a client has to answer a close, and to read what was sent before it."""
_LEAVE_WITHIN: Final = 1.0
"""The same when the server stops: one phone that sleeps must not hold that up, and loses nothing it cannot sync. And
for one that makes room for another, since all that linger are beyond what a user may have."""

_HURRIED: Final = (GOING_AWAY, REPLACED)

MakeSession = Callable[[Peer], Session]


def wire_factory(reactor: Any) -> Any:
    """What all connections share. One per process."""
    factory: Any = WebSocketServerFactory(  # type: ignore[no-untyped-call]
        protocols=[SUBPROTOCOL], server="lares", reactor=reactor
    )
    factory.setProtocolOptions(
        maxFramePayloadSize=LONGEST_FRAME,
        maxMessagePayloadSize=LONGEST_FRAME,
        # Its timers outlive their connections and cannot be turned by hand; ours are below.
        openHandshakeTimeout=0,
        closeHandshakeTimeout=0,
        failByDrop=False,
        # A token is asked for, never a cookie, so any page may connect that has one.
        allowNullOrigin=True,
    )
    return factory


@implementer(IPushProducer)
class _Flow:
    """What the transport tells about its send buffer."""

    def __init__(self) -> None:
        self.full = False
        self._waiting: list[Deferred[None]] = []

    def pauseProducing(self) -> None:
        self.full = True

    def resumeProducing(self) -> None:
        self.full = False
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def stopProducing(self) -> None:
        """The connection is gone, which the protocol is told too."""

    async def drained(self) -> None:
        while self.full:
            room: Deferred[None] = Deferred()
            self._waiting.append(room)
            await room


class Wire(WebSocketServerProtocol):
    """One connection; the `Peer` of its session."""

    transport: Any

    def __init__(self, factory: Any, clock: Clock, make_session: MakeSession) -> None:
        super().__init__()
        self.factory = factory
        self._clock = clock
        self._session = make_session(self)
        self._flow = _Flow()
        self._flowing = False
        self._unanswered_ping: bytes | None = None
        self._timer: Any = None

    # From autobahn.

    def onConnect(self, request: Any) -> str | None:
        return SUBPROTOCOL if SUBPROTOCOL in request.protocols else None

    def onOpen(self) -> None:
        self.transport.registerProducer(self._flow, True)
        self._flowing = True
        self._set_timer(PING_EVERY, self._ping)
        self._session.start()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if not isBinary:
            self._session.received(payload)

    def onMessageFrame(self, payload: Any) -> None:  # a list of bytes, though typed otherwise
        # Empty fragments count towards no limit on size, so a message of nothing else would grow for ever.
        parts: Any = [part for part in payload if part]
        super().onMessageFrame(parts)

    def onPing(self, payload: bytes) -> None:
        # The newest ping's pong stands for those before it (RFC 6455 section 5.5.3): otherwise a client that pings and
        # does not read would have pongs kept without end.
        if not self._flow.full:
            super().onPing(payload)
            return
        waits = self._unanswered_ping is not None
        self._unanswered_ping = payload
        if not waits:
            Deferred.fromCoroutine(self._answer_ping())

    async def _answer_ping(self) -> None:
        await self._flow.drained()
        payload, self._unanswered_ping = self._unanswered_ping, None
        if payload is not None:
            super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        if self.state == self.STATE_OPEN:
            self._set_timer(PING_EVERY, self._ping)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._set_timer(None, self._give_up)
        self._stop_flow()
        self._session.closed()
        self._flow.resumeProducing()  # nobody waits for room any more

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.is_closed: Any = None  # it has this connection for its result: see `Session.closed`

    # For the session.

    @property
    def full(self) -> bool:
        return self._flow.full

    def send(self, text: bytes) -> None:
        # `sendMessage` would hold what is sent to the limit on what is received, and `sendFrame` takes longer than the
        # rest of an update. Nothing of ours makes autobahn keep frames back, which this would overtake.
        if self.state == self.STATE_OPEN:
            self.transport.write(text_frame(text))

    def drained(self) -> Awaitable[None]:
        return self._flow.drained()

    def pause_reading(self) -> None:
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        self.transport.resumeProducing()

    def close(self, code: int, reason: str) -> None:
        self._stop_flow()
        if self.state == self.STATE_OPEN:
            # `sendClose` is for applications and refuses a server's own codes, 1001 and 1011.
            self.sendCloseFrame(code=code, reasonUtf8=reason.encode(), isReply=False)
            self._set_timer(_LEAVE_WITHIN if code in _HURRIED else _CLOSE_WITHIN, self._give_up)

    # Liveness: one timer, for the next ping, its pong, or the answer to a close.

    def _set_timer(self, seconds: float | None, call: Callable[[], None]) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None if seconds is None else self._clock.callLater(seconds, call)

    def _ping(self) -> None:
        self.sendPing()
        self._set_timer(PONG_WITHIN, self._give_up)

    def _give_up(self) -> None:
        self.dropConnection(abort=True)

    def _stop_flow(self) -> None:
        """A transport that has a producer does not close."""
        if self._flowing:
            self._flowing = False
            self.transport.unregisterProducer()
