# SPDX-License-Identifier: Apache-2.0
"""Who shares a room with whom, for the users who are about: nobody else learns of their presence.

Subscribes to the stream to learn whose rooms changed. Loading is the service's; until a user's rooms are known, they
see nobody and are seen by nobody.
"""

from __future__ import annotations

from collections.abc import Iterable

from homeserver.stream.changes import Change

NO_ROOMS: frozenset[int] = frozenset()
GROWTHS_KEPT = 8


class Sharing:
    """One per process."""

    def __init__(self) -> None:
        self._rooms: dict[str, frozenset[int]] = {}
        self._growths: dict[str, list[tuple[int, frozenset[int]]]] = {}
        self._tracked: set[str] = set()
        self.stale: set[str] = set()
        """Users whose rooms are to be loaded."""

    def track(self, user_id: str) -> bool:
        """Take an interest in a user; whether that is new."""
        if user_id in self._tracked:
            return False
        self._tracked.add(user_id)
        self.stale.add(user_id)
        return True

    def untrack(self, user_id: str) -> None:
        self._tracked.discard(user_id)
        self.stale.discard(user_id)
        self._rooms.pop(user_id, None)
        self._growths.pop(user_id, None)

    @property
    def tracked(self) -> Iterable[str]:
        return self._tracked

    def loaded(self, user_id: str, rooms: frozenset[int], serial: int) -> bool:
        """The rooms of a tracked user, as of `serial`; whether there are new ones among them."""
        if user_id not in self._tracked:
            return False
        grown = rooms - self._rooms.get(user_id, NO_ROOMS)
        self._rooms[user_id] = rooms
        if not grown:
            return False
        growths = self._growths.setdefault(user_id, [])
        growths.append((serial, grown))
        if len(growths) > GROWTHS_KEPT:
            (_, first), (later, second) = growths[:2]
            growths[:2] = [(later, first | second)]
        return True

    def rooms(self, user_id: str) -> frozenset[int]:
        """The rooms of a user, as far as known."""
        return self._rooms.get(user_id, NO_ROOMS)

    def rooms_new_since(self, user_id: str, serial: int) -> frozenset[int]:
        """The rooms that were not the user's, or not known to be, at that serial."""
        new = NO_ROOMS
        for at, rooms in reversed(self._growths.get(user_id, ())):
            if at <= serial:
                break
            new |= rooms
        return new

    def shares(self, user_id: str, other: str) -> bool:
        """Whether the one may know of the other."""
        return user_id == other or not self.rooms(user_id).isdisjoint(self.rooms(other))

    def changed(self, change: Change) -> Iterable[str]:
        """A commit: the rooms of users it touched are to be loaded again."""
        self.stale.update(self._tracked if change.unknown else self._tracked.intersection(change.users))
        return ()
