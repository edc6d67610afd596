# SPDX-License-Identifier: Apache-2.0
"""A thing that happens once: a client that went away, a server that stops.

Owns telling those who asked. Who waits for something else meanwhile (a long-poll) subscribes with what ends its wait
and looks at `fired` when it wakes.
"""

from collections.abc import Callable


class Signal:
    """Fires at most once. Costs nothing until somebody subscribes."""

    __slots__ = ("_subscribers", "fired")

    def __init__(self) -> None:
        self.fired = False
        self._subscribers: dict[object, Callable[[], object]] | None = None

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Have `callback` called when the signal fires, at once if it has. Returns what takes it back."""
        if self.fired:
            callback()
            return _nothing
        if self._subscribers is None:
            self._subscribers = {}
        subscribers, key = self._subscribers, object()
        subscribers[key] = callback

        def unsubscribe() -> None:
            subscribers.pop(key, None)

        return unsubscribe

    def fire(self) -> None:
        """Tell every subscriber, in the order they came; later calls do nothing."""
        if self.fired:
            return
        self.fired = True
        subscribers, self._subscribers = self._subscribers, None
        if subscribers:
            # One may take back another's subscription, so each is looked up when its turn comes.
            for key in tuple(subscribers):
                callback = subscribers.pop(key, None)
                if callback is not None:
                    callback()


def _nothing() -> None:
    """Taking back what has already been called changes nothing."""
