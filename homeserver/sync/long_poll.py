# SPDX-License-Identifier: Apache-2.0
"""Waiting for a response that has news: what a long-poll does, and a WebSocket between its updates.

A waiter listens before it looks, so that nothing falls between. Cancelling the coroutine where it waits leaves
nothing behind, which is how an aborted connection ends its work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred

from homeserver.stream.listeners import Listener
from homeserver.sync.request import SyncRequest, SyncResponse

LONGEST_WAIT = 300.0
"""Seconds. Longer and some proxy on the way gives up first."""


class Syncing(Protocol):
    """Makes responses; `SyncService` is one."""

    async def sync(self, request: SyncRequest) -> SyncResponse: ...

    def may_have_news(self, request: SyncRequest) -> bool: ...

    async def acknowledge(self, request: SyncRequest) -> None: ...


class Waking(Protocol):
    """Gives listeners; `Stream` is one."""

    def listen(self, user_id: str) -> Listener: ...


class Waiting(Protocol):
    """Is told who waits, for what only it can wake them for; `foreign_wakes.ForeignWakes` is one."""

    def begin(self, user_id: str) -> None: ...

    async def refresh(self, user_id: str) -> None: ...

    def end(self, user_id: str) -> None: ...


class Clock(Protocol):
    """Twisted's time; the reactor is one."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, callable: Any, *args: Any) -> Any: ...  # noqa: N802


class Ending(Protocol):
    """Something that will end, a server for instance."""

    @property
    def fired(self) -> bool: ...

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Be told; at once if it has ended. Returns what takes it back."""
        ...


class LongPoll:
    """Waits. One per process."""

    def __init__(self, syncing: Syncing, waking: Waking, waiting: Waiting, clock: Clock) -> None:
        self._syncing = syncing
        self._waking = waking
        self._waiting = waiting
        self._clock = clock

    async def acknowledge(self, request: SyncRequest) -> None:
        """The client comes with the token of a response it has processed."""
        await self._syncing.acknowledge(request)

    async def respond(self, request: SyncRequest, timeout: float, ending: Ending) -> SyncResponse:
        """The first response that has news, or the one there is after `timeout` seconds, or when the server ends.

        A client that has nothing yet, or wants the whole state, is not kept waiting.
        """
        if timeout <= 0 or request.since is None or request.full_state:
            return await self._syncing.sync(request)
        deadline = self._clock.seconds() + min(timeout, LONGEST_WAIT)
        listener = self._waking.listen(request.user_id)
        self._waiting.begin(request.user_id)
        unsubscribe = ending.subscribe(listener.wake)
        try:
            timed_out = False
            while True:
                await self._waiting.refresh(request.user_id)
                last = timed_out or ending.fired
                if last or self._syncing.may_have_news(request):
                    response = await self._syncing.sync(request)
                    if last or response.has_news or ending.fired:
                        return response
                timed_out = await self._wait(listener, deadline - self._clock.seconds())
        finally:
            unsubscribe()
            self._waiting.end(request.user_id)
            listener.close()

    async def _wait(self, listener: Listener, seconds: float) -> bool:
        """Until the listener is woken, or the time is up: True."""
        if seconds <= 0:
            return True
        woken: Deferred[None] = listener.wait()
        timer = self._clock.callLater(seconds, woken.cancel)
        try:
            await woken
        except CancelledError:
            if timer.active():  # it was not the time that was up
                raise
            return True
        finally:
            if timer.active():
                timer.cancel()
        # Wake-ups come in the middle of a commit's announcement; what a sender waits for goes first.
        turn: Deferred[None] = Deferred()
        self._clock.callLater(0, turn.callback, None)
        await turn
        return False
