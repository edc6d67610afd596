# SPDX-License-Identifier: Apache-2.0
"""Waiting for a response that has news: what a long-poll does, and a WebSocket between its updates.

A commit's listeners are worked off together in the next turn of the reactor, so that whoever made it is answered
before they are. Most are answered at once (`shortcut`): such a wait is an object in two tables, without a coroutine, a
Deferred or a timer of its own, and stays where it is when there was nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.needs import Protocol
from homeserver.protocol.tokens import SyncToken
from homeserver.stream.places import Places, refusal
from homeserver.sync.deadlines import Clock, Deadlines
from homeserver.sync.request import SyncRequest, SyncResponse

LONGEST_WAIT = 300.0
"""Seconds. Longer and some proxy on the way gives up first."""
TURN: Final = 200
"""Listeners worked off before the reactor turns to others."""

__all__ = ["LONGEST_WAIT", "Clock", "Ending", "LongPoll", "Wait"]


class Syncing(Protocol):
    """Makes responses; `SyncService` is one."""

    async def sync(self, request: SyncRequest) -> SyncResponse: ...

    async def sync_from_all(self, request: SyncRequest) -> SyncResponse: ...

    def at_once(self, request: SyncRequest) -> SyncResponse | None: ...

    def news(self, request: SyncRequest, told: SyncToken) -> SyncResponse | SyncToken | None: ...

    def is_acknowledged(self, request: SyncRequest) -> bool: ...

    async def acknowledge(self, request: SyncRequest) -> None: ...


class Listening(Protocol):
    """Wakes whom a commit concerns; `Stream.listeners` is one."""

    @property
    def places(self) -> Places: ...

    def add(self, listener: Wait) -> None: ...

    def remove(self, listener: Wait) -> None: ...


class Ending(Protocol):
    """Something that will end, a server for instance."""

    @property
    def fired(self) -> bool: ...

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Be told; at once if it has ended. Returns what takes it back."""
        ...


Done = Callable[[SyncResponse], object]
Failed = Callable[[Failure], object]


class Wait:
    """One wait. Calls one of its two callbacks, once, unless it is closed before."""

    __slots__ = (
        "_deadline",
        "_done",
        "_failed",
        "_last",
        "_listens",
        "_over",
        "_poll",
        "_request",
        "_task",
        "_told",
        "_woken",
        "user_id",
    )

    def __init__(self, poll: LongPoll, request: SyncRequest, done: Done, failed: Failed) -> None:
        self.user_id = request.user_id
        self._poll = poll
        self._request = request
        self._told = None if request.full_state else request.since
        """There is nothing for it up to here; None: all of it is wanted."""
        self._done = done
        self._failed = failed
        self._deadline = 0
        self._last = False
        """It is answered when it looks next, even if there is no news."""
        self._listens = False
        self._woken = False
        self._over = False
        self._task: Deferred[SyncResponse | None] | None = None
        """A look that takes more than a moment."""

    @property
    def device_id(self) -> str | None:
        return self._request.device_id

    def begin(self, seconds: float) -> None:
        """Answer now if that can be, or wait so long."""
        self._last = seconds <= 0 or self._told is None
        self.look()
        # Nothing can have happened since it looked: all this is within one turn of the reactor.
        if not self._over and not self._last:
            self._listens = True
            self._poll.listeners.add(self)
            self._deadline = self._poll.deadlines.add(self, seconds)

    def wake(self) -> None:
        """There may be news."""
        if not self._woken:
            self._woken = True
            if self._task is None:
                self._poll.turn_to(self)

    def expire(self) -> None:
        """Answer with what there is."""
        self._last = True
        self.look()

    def close(self) -> None:
        """Stop waiting, and call nobody."""
        task = self._task
        self._leave()
        if task is not None:
            task.cancel()

    def look(self) -> None:
        """Answer if there is news, or if it is time to."""
        if self._over or self._task is not None:
            return
        self._woken = False
        syncing, news = self._poll.syncing, None
        try:
            if self._told is not None:
                news = syncing.news(self._request, self._told)
            if isinstance(news, SyncToken):
                self._told = news
                if not self._last:
                    return
                news = syncing.at_once(self._request)
        except Exception:
            self._fail(Failure())  # type: ignore[no-untyped-call]
            return
        if news is not None:
            self._answer(news)
            return
        task = self._task = Deferred.fromCoroutine(self._look_at_all())
        task.addCallbacks(self._looked, self._fail)

    async def _look_at_all(self) -> SyncResponse | None:
        """The response, made of all there is; None if it has no news, so that the wait goes on."""
        while True:
            self._woken = False
            response = await self._poll.syncing.sync_from_all(self._request)
            if self._last or response.has_news:
                return response
            if not response.next_batch.to_device:
                self._told = response.next_batch
            if not self._woken:
                return None

    def _looked(self, response: SyncResponse | None) -> None:
        self._task = None
        if response is not None:
            self._answer(response)

    def _answer(self, response: SyncResponse) -> None:
        self._leave()
        try:
            self._done(response)
        except Exception:
            self._failed(Failure())  # type: ignore[no-untyped-call]

    def _fail(self, failure: Failure) -> None:
        if not self._over:
            self._leave()
            self._failed(failure)

    def _leave(self) -> None:
        self._over, self._task = True, None
        if self._listens:
            self._listens = False
            self._poll.listeners.remove(self)
            self._poll.deadlines.remove(self, self._deadline)


class LongPoll:
    """Waits. One per process."""

    def __init__(self, syncing: Syncing, listeners: Listening, clock: Clock) -> None:
        self.syncing = syncing
        self.listeners = listeners
        self.places = listeners.places
        self.deadlines = Deadlines(clock)
        self._clock = clock
        self._woken: list[Wait] = []

    def is_acknowledged(self, request: SyncRequest) -> bool:
        """Whether memory tells that `acknowledge` would do nothing."""
        return self.syncing.is_acknowledged(request)

    async def acknowledge(self, request: SyncRequest) -> None:
        """The client comes with the token of a response it has processed."""
        await self.syncing.acknowledge(request)

    def news_at_once(self, request: SyncRequest) -> SyncResponse | None:
        """A response with news, if there is one that can be made without waiting."""
        if request.since is None:
            return None
        news = self.syncing.news(request, request.since)
        return None if isinstance(news, SyncToken) else news

    def wait(self, request: SyncRequest, timeout: float, done: Done, failed: Failed) -> Wait:
        """Call `done` with the first response that has news, or with the one there is after `timeout` seconds.

        Perhaps before this returns. A client that has nothing yet, or wants the whole state, is not kept waiting.
        """
        wait = Wait(self, request, done, failed)
        wait.begin(min(timeout, LONGEST_WAIT))
        return wait

    def at_once(self, request: SyncRequest) -> SyncResponse | None:
        """The response as of now, if it can be made without waiting."""
        return self.syncing.at_once(request)

    async def respond(self, request: SyncRequest, timeout: float, ending: Ending) -> SyncResponse:
        """The response of `wait`, or the one there is when the server ends, or when another wait needs the place.

        Cancelling the coroutine leaves nothing behind, which is how an aborted connection ends its work. Raises
        LimitExceeded if it would have to wait and too much of the user's waits already.
        """
        if timeout <= 0 or request.since is None or request.full_state or ending.fired:
            return await self.syncing.sync(request)
        answer: Deferred[SyncResponse] = Deferred(lambda _: wait.close())
        wait = self.wait(request, timeout, answer.callback, answer.errback)
        if answer.called:
            return await answer
        if not self.places.take(request.user_id, wait, wait):
            wait.expire()
            response = await answer
            if not response.has_news:
                raise refusal()
            return response
        unsubscribe = ending.subscribe(wait.expire)
        try:
            return await answer
        finally:
            unsubscribe()
            self.places.leave(request.user_id, wait)

    def turn_to(self, wait: Wait) -> None:
        """Have it look in the next turn of the reactor."""
        if not self._woken:
            self._clock.callLater(0, self._turn)
        self._woken.append(wait)

    def _turn(self) -> None:
        woken, self._woken = self._woken[:TURN], self._woken[TURN:]
        if self._woken:
            self._clock.callLater(0, self._turn)
        for wait in woken:
            wait.look()
