# SPDX-License-Identifier: Apache-2.0
"""One WebSocket connection's life: updates as they come, answers in the order of the requests, and how it ends.

Memory is bounded by construction. The next update is not made until the last one has left the buffer, so what happens
meanwhile merges into one; requests wait in a short queue, beyond which nothing more is read; an answer is not made
before those ahead of it have left.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from homeserver.clientapi.sync import Sightings
from homeserver.clientapi.websocket.frames import BadFrame, Call, error_frame, read_call, result_frame
from homeserver.clientapi.websocket.methods import Methods
from homeserver.errors import MatrixError
from homeserver.sync.long_poll import Ending
from homeserver.sync.request import SyncRequest, SyncResponse
from homeserver.web.authentication import Requester

logger = logging.getLogger(__name__)

UPDATE_EVERY = 60.0
"""Seconds after which a client that has heard nothing gets an update without news, and with it a newer token."""
LONGEST_QUEUE = 32
"""Requests read ahead of the one being worked on."""

GOING_AWAY = 1001
INTERNAL_ERROR = 1011
TOKEN_ENDED = 4001


class Peer(Protocol):
    """The connection's other end."""

    def send(self, text: bytes) -> None:
        """Queue a frame to be sent."""

    def drained(self) -> Awaitable[None]:
        """Wait while the send buffer is full."""
        ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        """Close after what is queued; `reason` is at most 100 characters."""


class Updates(Protocol):
    """Makes responses; `LongPoll` does."""

    async def respond(self, request: SyncRequest, timeout: float, ending: Ending) -> SyncResponse: ...


Authenticate = Callable[[], Awaitable[Requester]]
"""Whose the connection's token is now. Raises MatrixError if it may not go on."""

Watch = Callable[[Callable[[], None]], Callable[[], None]]
"""Have a callback called when that may have changed; returns the way to stop."""


class Session:
    """One connection. `start` and `received` and `closed` are called by the wire."""

    def __init__(
        self,
        *,
        peer: Peer,
        requester: Requester,
        request: SyncRequest,
        presence: str,
        authenticate: Authenticate,
        watch: Watch,
        updates: Updates,
        methods: Methods,
        sightings: Sightings,
        ending: Ending,
    ) -> None:
        self._peer = peer
        self._requester = requester
        self._request = request
        self._presence = presence
        self._authenticate = authenticate
        self._watch = watch
        self._updates = updates
        self._methods = methods
        self._sightings = sightings
        self._ending = ending
        self._queue: deque[bytes] = deque()
        self._working = False
        self._over = False
        self._tasks: set[Deferred[object]] = set()
        self._cleanups: list[Callable[[], None]] = []

    # From the wire.

    def start(self) -> None:
        """The connection is open: the first update is sent at once."""
        self._cleanups.append(self._watch(lambda: self._run_abandonable(self._check_token())))
        self._cleanups.append(self._ending.subscribe(self._server_ends))
        self._run_abandonable(self._send_updates())

    def received(self, frame: bytes) -> None:
        """A text frame."""
        if self._over:
            return
        self._queue.append(frame)
        if len(self._queue) == LONGEST_QUEUE:
            self._peer.pause_reading()
        if not self._working:
            self._working = True
            # What was asked for is done even if nobody is left to hear of it, as over HTTP.
            Deferred.fromCoroutine(self._work()).addErrback(self._failed)

    def closed(self) -> None:
        """The connection is gone: stop all work for it."""
        self._over = True
        for cleanup in self._cleanups:
            cleanup()
        self._cleanups.clear()
        for task in tuple(self._tasks):
            task.cancel()

    # The work.

    async def _send_updates(self) -> None:
        timeout = 0.0
        while not self._over:
            self._sightings.seen(self._request.user_id, self._request.device_id, self._presence)
            response = await self._updates.respond(self._request, timeout, self._ending)
            if not await self._check_token():
                return
            self._peer.send(response.body)
            await self._peer.drained()
            self._request = replace(self._request, since=response.next_batch, full_state=False)
            timeout = UPDATE_EVERY

    async def _work(self) -> None:
        """Answer what is in the queue, in order."""
        try:
            while self._queue and not self._over:
                frame = self._queue.popleft()
                if len(self._queue) == LONGEST_QUEUE // 2:
                    self._peer.resume_reading()
                answer = await self._answer(frame)
                if not self._over:
                    self._peer.send(answer)
                    await self._peer.drained()
        finally:
            self._working = False

    async def _answer(self, frame: bytes) -> bytes:
        try:
            call = read_call(frame)
        except BadFrame as bad:
            return error_frame(bad.id, bad.error)
        if not await self._check_token():
            return b""
        try:
            result = await self._methods.call(self._requester, call)
        except Exception as error:
            return error_frame(call.id, error)
        self._heed(call)
        return result_frame(call.id, result)

    def _heed(self, call: Call) -> None:
        """What was set by `presence` is the connection's from now on."""
        if call.method == "presence":
            self._presence = str(call.params["presence"])

    # Endings.

    async def _check_token(self) -> bool:
        """Whether the connection may go on; if its token has ended, so does the connection."""
        try:
            self._requester = await self._authenticate()
        except MatrixError as error:
            if not self._over:
                self._peer.send(error_frame(None, error))
                self._close(TOKEN_ENDED, error.message)
        return not self._over

    def _server_ends(self) -> None:
        self._close(GOING_AWAY, "The server is stopping")

    def _close(self, code: int, reason: str) -> None:
        if not self._over:
            self._over = True
            self._queue.clear()
            self._peer.close(code, reason[:100])

    def _run_abandonable(self, work: Coroutine[Any, Any, object]) -> None:
        """Work that ends with the connection."""
        task: Deferred[object] = Deferred.fromCoroutine(work)
        self._tasks.add(task)

        def done(result: object) -> None:
            self._tasks.discard(task)
            if isinstance(result, Failure):
                self._failed(result)

        task.addBoth(done)

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, CancelledError) and self._over:
            return
        logger.error("a WebSocket connection failed", exc_info=failure.value)
        self._close(INTERNAL_ERROR, "Internal server error")
