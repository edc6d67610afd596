# SPDX-License-Identifier: Apache-2.0
"""Those who wait for news: long-polls and WebSockets, by user.

Owns waking, not deciding what the news is. A listener that is woken finds out by asking the providers; a wake-up too
many costs a look, one too few would cost a message, so callers err on the side of waking.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from twisted.internet.defer import Deferred

from homeserver.needs import Protocol
from homeserver.stream.places import Places, refusal


class Waking(Protocol):
    """Whoever waits for news of a user."""

    @property
    def user_id(self) -> str: ...

    def wake(self) -> None:
        """There may be news. Comes in the middle of a commit's announcement: what takes long is for later."""


class Listener:
    """One waiter of one user. `wait` gives a Deferred that fires at the next wake-up after it is called."""

    __slots__ = ("_counted", "_deferred", "_listeners", "_woken", "user_id")

    def __init__(self, listeners: Listeners, user_id: str) -> None:
        self._listeners = listeners
        self._deferred: Deferred[None] | None = None
        self._woken = False
        self._counted = False
        self.user_id = user_id

    def wake(self) -> None:
        """Fire the wait, or make the next one return at once."""
        deferred, self._deferred = self._deferred, None
        if deferred is None:
            self._woken = True
        else:
            deferred.callback(None)

    def wait(self) -> Deferred[None]:
        """Fires at once if a wake-up came since the last wait. Cancelling it leaves the listener usable.

        Raises LimitExceeded if too much waits for the user already.
        """
        if self._woken:
            self._woken = False
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done
        if not self._counted:
            if not self._listeners.places.take(self.user_id, self):
                raise refusal()
            self._counted = True
        self._deferred = Deferred(self._cancelled)
        return self._deferred

    def _cancelled(self, _deferred: Deferred[None]) -> None:
        self._deferred = None

    def close(self) -> None:
        """Stop listening."""
        self._listeners.remove(self)
        if self._counted:
            self._counted = False
            self._listeners.places.leave(self.user_id, self)


class Listeners:
    """All who wait in this process."""

    def __init__(self) -> None:
        self.places = Places()
        """What those who come from outside must have to wait."""
        self._by_user: dict[str, set[Waking]] = {}
        self._shown = self._newest = 0
        """How far the stream is shown and known."""
        self._again: dict[int, set[str]] = {}
        """Whom to wake again once a position is shown."""

    @property
    def users(self) -> Set[str]:
        """The users with someone waiting."""
        return self._by_user.keys()

    def __len__(self) -> int:
        return sum(map(len, self._by_user.values()))

    def open(self, user_id: str) -> Listener:
        """A new listener; close it when done."""
        listener = Listener(self, user_id)
        self.add(listener)
        return listener

    def add(self, listener: Waking) -> None:
        """Wake it from now on; remove it when done."""
        self._by_user.setdefault(listener.user_id, set()).add(listener)

    def remove(self, listener: Waking) -> None:
        waiting = self._by_user.get(listener.user_id)
        if waiting is not None:
            waiting.discard(listener)
            if not waiting:
                del self._by_user[listener.user_id]

    def wake(self, users: Iterable[str], upto: int | None = None) -> None:
        """Wake every listener of those users, for what is at `upto`, or at the newest position that is known."""
        by_user = self._by_user
        upto = self._newest if upto is None else upto
        if upto > self._shown:  # whoever looks now does not find it, and shall look again
            users = set(users)
            self._again.setdefault(upto, set()).update(users)
        for user_id in by_user.keys() & users:
            for listener in tuple(by_user.get(user_id, ())):
                listener.wake()

    def shown(self, position: int, newest: int) -> set[str]:
        """The stream is shown up to `position` and known up to `newest`; whom to wake again for what is shown now."""
        self._shown, self._newest = position, newest
        again: set[str] = set()
        for upto in [upto for upto in self._again if upto <= position]:
            again |= self._again.pop(upto)
        return again

    def wake_all(self) -> None:
        self.wake(tuple(self._by_user))
