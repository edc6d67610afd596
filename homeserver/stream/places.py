# SPDX-License-Identifier: Apache-2.0
"""How many waits for news one user may have at once: long-polls, `/events` and WebSockets, counted together.

Each takes a connection, memory, and a look at whatever happens to its user, for as long as it likes and for the price
of one request. What one address may have does not bound them where a proxy stands in front, which all come by.

Where there is no place for another, the one that has waited longest for the same device gives way. A client that asks
anew has often given up what still waits here, because a proxy holds on to it, and would lock itself out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from homeserver.errors import LimitExceeded
from homeserver.needs import Protocol

MOST: Final = 100
"""Of one user."""
_RETRY_MS: Final = 10_000
"""Nobody knows when one leaves; polls last half a minute, as a rule."""


class Yielding(Protocol):
    """What can be ended in favour of another of its device."""

    @property
    def device_id(self) -> str | None: ...

    def expire(self) -> object:
        """Come to an end now; its place is taken."""
        ...


class Places:
    """One per process."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._by_user: dict[str, dict[object, Yielding | None]] = {}
        """In the order of their coming. Who cannot give way is None."""

    def has_room(self, user_id: str, device_id: str | None) -> bool:
        """Whether `take` would find a place for one of that device."""
        taken = self._by_user.get(user_id)
        return taken is None or len(taken) < self._most or _oldest(taken, device_id) is not None

    def take(self, user_id: str, holder: object, yielding: Yielding | None = None) -> bool:
        """Have a place until `leave`, or until it must be given up; False if there is none.

        `yielding`: the holder, if it can be ended.
        """
        taken = self._by_user.get(user_id)
        if taken is None:
            self._by_user[user_id] = {holder: yielding}
            return True
        if len(taken) < self._most:
            taken[holder] = yielding
            return True
        oldest = None if yielding is None else _oldest(taken, yielding.device_id)
        if oldest is None:
            return False
        del taken[oldest]
        taken[holder] = yielding  # before others are called, who may come to take and leave
        oldest.expire()
        return True

    def leave(self, user_id: str, holder: object) -> None:
        """Give a place back, if it still is the holder's."""
        taken = self._by_user.get(user_id)
        if taken is not None:
            taken.pop(holder, None)
            if not taken:
                del self._by_user[user_id]

    def __len__(self) -> int:
        return sum(map(len, self._by_user.values()))


def refusal() -> LimitExceeded:
    """What is told who finds no place."""
    return LimitExceeded(_RETRY_MS, "Too many of your connections wait for news already")


def _oldest(taken: Mapping[object, Yielding | None], device_id: str | None) -> Yielding | None:
    """Who gives way to another of the device. Who names no device may be anybody."""
    if device_id is None:
        return None
    return next((each for each in taken.values() if each is not None and each.device_id == device_id), None)
