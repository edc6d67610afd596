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
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from homeserver.clientapi.sync import Sightings
from homeserver.clientapi.websocket.frames import BadFrame, Call, error_frame, read_call, result_frame
from homeserver.clientapi.websocket.methods import Methods
from homeserver.errors import MatrixError
from homeserver.needs import Protocol
from homeserver.sync.long_poll import Ending
from homeserver.sync.request import SyncRequest, SyncResponse
from homeserver.web.authentication import Requester

logger = logging.getLogger(__name__)

UPDATE_EVERY = 60.0
"""Seconds after which a client that has heard nothing gets an update without news, and with it a newer token."""
TRUST = 15.0
"""Seconds for which a token is believed in that nobody speaks against."""
LONGEST_QUEUE = 32
"""Requests read ahead of the one being worked on."""

GOING_AWAY = 1001
INTERNAL_ERROR = 1011
TOKEN_ENDED = 4001
REPLACED = 4002


class Peer(Protocol):
    """The connection's other end."""

    @property
    def full(self) -> bool:
        """Whether the send buffer is full."""
        ...

    def send(self, text: bytes) -> None:
        """Queue a frame to be sent."""

    def drained(self) -> Awaitable[None]:
        """Wait while the send buffer is full."""
        ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        """Close after what is queued; `reason` is at most 100 characters."""


class _Gone:
    """A peer that is no more."""

    full = False

    def send(self, text: bytes) -> None: ...

    async def drained(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self, code: int, reason: str) -> None: ...


_GONE = _Gone()


class Wait(Protocol):
    """A wait for an update."""

    def close(self) -> None: ...


class Places(Protocol):
    """What bounds the connections of one user; `stream.places.Places` is one."""

    def take(self, user_id: str, holder: object, yielding: Session) -> bool:
        """Have a place; False if there is none. It may be taken back by `Session.expire`."""
        ...

    def leave(self, user_id: str, holder: object) -> None: ...


class Updates(Protocol):
    """Makes responses; `LongPoll` does."""

    @property
    def places(self) -> Places: ...

    def wait(
        self,
        request: SyncRequest,
        timeout: float,
        done: Callable[[SyncResponse], object],
        failed: Callable[[Failure], object],
    ) -> Wait: ...


class Token(Protocol):
    """The token with which a connection was opened."""

    async def authenticate(self) -> Requester:
        """Whose it is now. Raises MatrixError if the connection may not go on."""
        ...

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have a callback called when that may have changed; returns the way to stop."""
        ...

    def is_behind(self) -> bool:
        """Whether it may have changed without having been heard of here."""
        ...


class Session:
    """One connection. `start` and `received` and `closed` are called by the wire."""

    def __init__(
        self,
        *,
        peer: Peer,
        requester: Requester,
        request: SyncRequest,
        presence: str,
        token: Token,
        updates: Updates,
        methods: Methods,
        sightings: Sightings,
        ending: Ending,
        now: Callable[[], float],
    ) -> None:
        """`now` gives seconds since 1970."""
        self._peer = peer
        self._requester = requester
        self._request = request
        self._presence = presence
        self._token = token
        self._now = now
        self._trusted_until = 0.0
        self._doubts = 0
        self._updates = updates
        self._methods = methods
        self._sightings = sightings
        self._ending = ending
        self._queue: deque[bytes] = deque()
        self._working = False
        self._over = False
        self._wait: Wait | None = None
        self._waits = 0
        self._tasks: set[Deferred[object]] = set()
        self._cleanups: list[Callable[[], None]] = []

    # From the wire.

    def start(self) -> None:
        """The connection is open: the first update is sent at once."""
        if not self._updates.places.take(self._request.user_id, self, self):
            self.expire()
            return
        # What was true of the token when the request came may not be any more: the first update has it looked at.
        self._cleanups.append(self._token.watch(self._doubt))
        self._cleanups.append(self._ending.subscribe(self._server_ends))
        if not self._over:
            self._next_update(0.0)

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
        self._updates.places.leave(self._request.user_id, self)
        for cleanup in self._cleanups:
            cleanup()
        self._cleanups.clear()
        if self._wait is not None:
            self._wait.close()
        for task in tuple(self._tasks):
            task.cancel()
        # What holds one another would stay until the collector comes by, minutes later.
        self._wait = None
        self._peer = _GONE

    # The work.

    def _next_update(self, timeout: float) -> None:
        """Wait for what is new after the last one."""
        request = self._request
        self._sightings.seen(request.user_id, request.device_id, self._presence)
        self._waits += 1
        number = self._waits
        wait = self._updates.wait(request, timeout, self._updated, self._failed)
        if number == self._waits:  # else it was over at once, and the next one is running
            self._wait = wait

    def _updated(self, response: SyncResponse) -> None:
        """Send an update: in a direct call, since there are many of them, unless something must be waited for."""
        if self._is_trusted():
            self._peer.send(response.body)
            if not self._peer.full:
                self._go_on(response)
                return
            self._run_abandonable(self._go_on_when_drained(response))
        elif not self._over:
            self._run_abandonable(self._send_if_welcome(response))

    async def _send_if_welcome(self, response: SyncResponse) -> None:
        if await self._check_token():
            self._peer.send(response.body)
            await self._go_on_when_drained(response)

    async def _go_on_when_drained(self, response: SyncResponse) -> None:
        await self._peer.drained()
        self._go_on(response)

    def _go_on(self, response: SyncResponse) -> None:
        if not self._over:
            before = self._request
            self._request = SyncRequest(
                user_id=before.user_id,
                device_id=before.device_id,
                since=response.next_batch,
                filter=before.filter,
                state_after=before.state_after,
            )
            self._next_update(UPDATE_EVERY)

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
        if not self._is_trusted() and not await self._check_token():
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

    def _is_trusted(self) -> bool:
        """Whether the connection may go on, so far as that is certain without asking."""
        behind = self._token.is_behind()  # first, since whoever looks may hear that the token has ended
        return not behind and not self._over and self._now() < self._trusted_until

    def _trust(self) -> None:
        """The token was looked at just now: believe in it for a while, unless it ends before."""
        until = self._now() + TRUST
        expires = self._requester.expires_ts
        self._trusted_until = until if expires is None else min(until, expires / 1000)

    def _doubt(self) -> None:
        """The token may have ended."""
        self._trusted_until = 0.0
        self._doubts += 1
        self._run_abandonable(self._check_token())

    async def _check_token(self) -> bool:
        """Whether the connection may go on; if its token has ended, so does the connection."""
        try:
            doubts = -1
            while doubts != self._doubts:  # what was found while they grew may be out of date
                doubts = self._doubts
                self._requester = await self._token.authenticate()
            self._trust()
        except MatrixError as error:
            if not self._over:
                self._peer.send(error_frame(None, error))
                self._close(TOKEN_ENDED, error.message)
        return not self._over

    @property
    def device_id(self) -> str | None:
        return self._request.device_id

    def expire(self) -> None:
        """There are too many; this one makes room."""
        self._close(REPLACED, "Too many connections; another one of this device took the place of this")

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
