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
from zope.interface import implementer  # type: ignore[import-untyped]

from homeserver.clientapi.websocket.frames import LONGEST_FRAME
from homeserver.clientapi.websocket.session import Peer, Session

SUBPROTOCOL: Final = "m.json"
PING_EVERY: Final = 54.0
PONG_WITHIN: Final = 60.0
"""Seconds."""
_CLOSE_WITHIN: Final = 10.0
"""Seconds a client has to answer a close, and to read what was sent before it."""

MakeSession = Callable[[Peer], Session]


def wire_factory(reactor: Any) -> Any:
    """What all connections share. One per process."""
    factory: Any = WebSocketServerFactory(  # type: ignore[no-untyped-call]
        protocols=[SUBPROTOCOL], server="lares", reactor=reactor
    )
    factory.setProtocolOptions(
        maxFramePayloadSize=LONGEST_FRAME,
        maxMessagePayloadSize=LONGEST_FRAME,
        autoPingInterval=PING_EVERY,
        autoPingTimeout=PONG_WITHIN,
        closeHandshakeTimeout=_CLOSE_WITHIN,
        failByDrop=False,
        # A token is asked for, never a cookie, so any page may connect that has one.
        allowNullOrigin=True,
    )
    return factory


@implementer(IPushProducer)
class _Flow:
    """What the transport tells about its send buffer."""

    def __init__(self) -> None:
        self._full = False
        self._waiting: list[Deferred[None]] = []

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def stopProducing(self) -> None:
        """The connection is gone, which the protocol is told too."""

    async def drained(self) -> None:
        while self._full:
            room: Deferred[None] = Deferred()
            self._waiting.append(room)
            await room


class Wire(WebSocketServerProtocol):
    """One connection; the `Peer` of its session."""

    transport: Any

    def __init__(self, factory: Any, make_session: MakeSession) -> None:
        super().__init__()
        self.factory = factory
        self._session = make_session(self)
        self._flow = _Flow()
        self._flowing = False

    # From autobahn.

    def onConnect(self, request: Any) -> str | None:
        return SUBPROTOCOL if SUBPROTOCOL in request.protocols else None

    def onOpen(self) -> None:
        self.transport.registerProducer(self._flow, True)
        self._flowing = True
        self._session.start()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if not isBinary:
            self._session.received(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._stop_flow()
        self._session.closed()
        self._flow.resumeProducing()  # nobody waits for room any more

    # For the session.

    def send(self, text: bytes) -> None:
        if self.state == self.STATE_OPEN:
            self.sendMessage(text, isBinary=False)  # type: ignore[no-untyped-call]

    def drained(self) -> Awaitable[None]:
        return self._flow.drained()

    def pause_reading(self) -> None:
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        self.transport.resumeProducing()

    def close(self, code: int, reason: str) -> None:
        self._stop_flow()
        self.sendClose(code, reason)

    def _stop_flow(self) -> None:
        """A transport that has a producer does not close."""
        if self._flowing:
            self._flowing = False
            self.transport.unregisterProducer()
