# SPDX-License-Identifier: Apache-2.0
"""When delayed events are sent: one timer per process, set for the soonest this process knows of.

Owns claiming, sending in the order of their times, and noting the outcome. Every process sends whatever is due, whoever
scheduled it: of several that look at once each gets others (`SKIP LOCKED`). A process looks when what it scheduled
itself is due, and every few seconds for what is left by one that died.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from homeserver.errors import MatrixError, NotFound, RemoteServerFailed
from homeserver.needs import Protocol
from homeserver.protocol.errors import ProtocolError
from homeserver.rooms.delayed.dispatch import Dispatch, GivenUp, error_object
from homeserver.rooms.delayed.events import KEPT_MS
from storage.delayed_events import LEASE_MS, DelayedEvent, DelayedEventStore

MOST_ATTEMPTS: Final = 20
"""After so many failures that are not the event's fault it is given up."""
AT_ONCE: Final = 100
"""Events of one claim."""
MOST_HELD: Final = 500
"""Events that this process is sending, or has taken to send after others of their room."""
LOOK_MS: Final = 5_000
"""How often a process looks for what it does not know to be due."""
FULL_MS: Final = 100
"""How soon it looks again when it has its hands full."""
RENEW_MS: Final = LEASE_MS // 3
"""How often it looks, and renews its leases, while it is sending something."""
SWEEP_SECONDS: Final = 3_600.0

Leased = tuple[DelayedEvent, bool]
"""An event this process may send; whether another user has set that state since."""


class Scheduler(Protocol):
    """The reactor."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, fn: Callable[..., object], /, *args: object) -> Any: ...  # noqa: N802


class DelayTimer:
    """Runs between `start` and `stop`."""

    _log = Logger()

    def __init__(self, *, reactor: Scheduler, store: DelayedEventStore, dispatch: Dispatch) -> None:
        self._reactor = reactor
        self._store = store
        self._dispatch = dispatch
        self._call: Any = None
        self._round: Deferred[None] | None = None
        self._sooner: float | None = None
        self._swept = 0.0
        self._running = False
        self._held: set[str] = set()
        self._rooms: dict[str, deque[Leased]] = {}
        self._sending: set[Deferred[None]] = set()

    def start(self) -> None:
        """Send what became due meanwhile, and go on."""
        self._running = True
        self._swept = self._reactor.seconds()
        self._set(0.0)

    async def stop(self) -> None:
        """Take up nothing more, and wait for what is being sent."""
        self._running = False
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._round is not None:
            await self._round
        for sending in list(self._sending):
            await sending

    def expect(self, delay_ms: int) -> None:
        """Something is due in so long."""
        self._set(delay_ms / 1000)

    async def send_now(self, delay_id: str) -> bool:
        """Send an event by somebody's wish; False if it is not to be had.

        Raises why it can't be sent; then it stays scheduled, unless it is NotFound because it can never be.
        """
        leased = await self._store.take(delay_id)
        if leased is None:
            return False
        self._hold(delay_id)
        try:
            event_id = await self._dispatch.send(*leased)
        except GivenUp as error:
            await self._store.failed(delay_id, error_object(error), by_action=True)
            raise NotFound(error.message) from error
        except Exception:
            await self._store.release(delay_id)
            raise
        finally:
            self._held.discard(delay_id)
        await self._store.sent(delay_id, event_id, by_action=True)
        return True

    # The timer.

    def _set(self, seconds: float) -> None:
        """Look in so many seconds at the latest."""
        if not self._running:
            return
        at = self._reactor.seconds() + seconds
        if self._round is not None:  # it sets the timer when it is done
            self._sooner = at if self._sooner is None else min(at, self._sooner)
        elif self._call is None or not self._call.active():
            self._call = self._reactor.callLater(seconds, self._look)
        elif at < self._call.getTime():
            self._call.reset(seconds)

    def _hold(self, delay_id: str) -> None:
        self._held.add(delay_id)
        self._set(RENEW_MS / 1000)

    def _look(self) -> None:
        self._round = Deferred()
        Deferred.fromCoroutine(self._turn(self._round))

    async def _turn(self, over: Deferred[None]) -> None:
        wait = LOOK_MS
        try:
            if self._held:
                await self._store.renew(list(self._held))
            wait = await self._take_due()
        except Exception:
            self._log.failure("looking for delayed events failed; it is tried again")
        self._round = None
        soonest, self._sooner = self._sooner, None
        self._set(wait / 1000)
        if soonest is not None:
            self._set(max(0.0, soonest - self._reactor.seconds()))
        over.callback(None)

    async def _take_due(self) -> int:
        """Begin to send what is due; in how many milliseconds to look again."""
        while self._running and len(self._held) < MOST_HELD:
            leased = await self._store.claim(AT_ONCE)
            for each in leased:
                self._enqueue(each)
            if len(leased) < AT_ONCE:
                break
        await self._sweep()
        if len(self._held) >= MOST_HELD:
            return FULL_MS
        due = await self._store.next_due(MOST_HELD + 1)
        longest = RENEW_MS if self._held else LOOK_MS
        return longest if due is None else max(1, min(due, longest))

    def _enqueue(self, leased: Leased) -> None:
        """In one room in the order of their times; rooms do not wait for each other."""
        event = leased[0]
        if event.delay_id in self._held:
            return
        self._held.add(event.delay_id)
        queue = self._rooms.get(event.room_id)
        if queue is not None:
            queue.append(leased)
            return
        self._rooms[event.room_id] = deque((leased,))
        sending: Deferred[None] = Deferred.fromCoroutine(self._send_all(event.room_id))
        if not sending.called:
            self._sending.add(sending)
            sending.addCallback(lambda _none: self._sending.discard(sending))

    async def _send_all(self, room_id: str) -> None:
        queue = self._rooms[room_id]
        while queue:
            event, overtaken = queue.popleft()
            try:
                await self._send(event, overtaken)
            except Exception:  # it comes up again when its lease lapses
                self._log.failure("a delayed event could not be sent; it is tried again")
            self._held.discard(event.delay_id)
        del self._rooms[room_id]

    async def _send(self, event: DelayedEvent, overtaken: bool) -> None:
        try:
            event_id = await self._dispatch.send(event, overtaken)
        except Exception as error:
            if event.attempts < MOST_ATTEMPTS and not _is_refusal(error):
                raise
            await self._store.failed(event.delay_id, error_object(error), by_action=False)
        else:
            await self._store.sent(event.delay_id, event_id, by_action=False)

    async def _sweep(self) -> None:
        now = self._reactor.seconds()
        if now - self._swept >= SWEEP_SECONDS:
            self._swept = now
            await self._store.sweep(KEPT_MS)


def _is_refusal(error: Exception) -> bool:
    """Whether the event cannot be sent, rather than this server or another failed."""
    if isinstance(error, RemoteServerFailed) or type(error) is MatrixError:
        return False
    return isinstance(error, MatrixError | ProtocolError)
