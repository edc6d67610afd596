# SPDX-License-Identifier: Apache-2.0
"""Who shares a room with whom, for the users who are about: nobody else learns of their presence.

Owns also since when they do, by positions of the stream, for the latest who joined: they learn of each other though
nobody's presence changed. Subscribes to the stream to learn whose rooms changed. Loading is `publication`'s; until a
user's rooms are known, they see nobody and are seen by nobody.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping, Set

from homeserver.stream.changes import Change

NO_ROOMS: frozenset[int] = frozenset()
JOINS_KEPT = 8
"""Of one user."""
JOINERS_KEPT = 1000


class Sharing:
    """One per process."""

    def __init__(self) -> None:
        self._rooms: dict[str, frozenset[int]] = {}
        self._present: dict[int, set[str]] = {}
        """The same by room."""
        self._joins: dict[str, list[tuple[int, int]]] = {}
        """Position and room of the newest joins of those who joined last, in that order."""
        self._joiners: list[tuple[int, str]] = []
        """Those, by the position of their newest."""
        self._floor = 0
        """The joins above are known."""
        self._tracked: set[str] = set()
        self._loading: set[str] = set()
        self.stale: set[str] = set()
        """Users whose rooms are to be loaded."""
        self.placed: set[int] = set()
        """Rooms to which came users of whom not each was told, as when one is put in place as a whole; see `found`."""
        self._finding: set[int] = set()

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
        self._place(user_id, NO_ROOMS)
        self._rooms.pop(user_id, None)
        self._drop_joins(user_id)

    def _place(self, user_id: str, rooms: frozenset[int]) -> None:
        """The user is in these rooms, and no others."""
        before = self.rooms(user_id)
        self._rooms[user_id] = rooms
        for room in before - rooms:
            present = self._present[room]
            present.discard(user_id)
            if not present:
                del self._present[room]
        for room in rooms - before:
            self._present.setdefault(room, set()).add(user_id)

    @property
    def outdated(self) -> bool:
        """Whether anybody's rooms are to be loaded, or are being."""
        return bool(self.stale or self._loading or self.placed or self._finding)

    def is_outdated(self, user_id: str) -> bool:
        """Whether a user's are."""
        return user_id in self.stale or user_id in self._loading

    def take_placed(self) -> list[int]:
        """Rooms whose members are to be looked for; `found` or `failed` follows."""
        self._finding, self.placed = self.placed, set()
        return list(self._finding)

    def found(self, members: Iterable[str]) -> None:
        """Who is in those rooms: their rooms are to be loaded again."""
        self._finding = set()
        self.stale.update(self._tracked.intersection(members))

    def take(self) -> list[str]:
        """Whose rooms are to be loaded; `loaded` or `failed` follows."""
        self._loading, self.stale = self.stale, set()
        return list(self._loading)

    def failed(self) -> None:
        """They could not be."""
        self.stale |= self._loading
        self._loading = set()
        self.placed |= self._finding
        self._finding = set()

    def loaded(self, user_id: str, rooms: Mapping[int, int]) -> bool:
        """The rooms of a user, each with the position of the join; whether there are new ones among them."""
        self._loading.discard(user_id)
        if user_id not in self._tracked:
            return False
        before = self._rooms.get(user_id, NO_ROOMS)
        self._place(user_id, frozenset(rooms))
        self._drop_joins(user_id)
        joins = sorted((position, room) for room, position in rooms.items() if position > self._floor)
        if joins:
            self._joins[user_id] = joins[-JOINS_KEPT:]
            insort(self._joiners, (joins[-1][0], user_id))
            if len(self._joiners) > JOINERS_KEPT:
                self._floor, oldest = self._joiners.pop(0)
                self._joins.pop(oldest, None)
        return not before.issuperset(rooms)

    def _drop_joins(self, user_id: str) -> None:
        joins = self._joins.pop(user_id, None)
        if joins is not None:
            del self._joiners[bisect_left(self._joiners, (joins[-1][0], user_id))]

    def rooms(self, user_id: str) -> frozenset[int]:
        """The rooms of a user, as far as known."""
        return self._rooms.get(user_id, NO_ROOMS)

    def present(self, rooms: Iterable[int]) -> set[str]:
        """Who is in one of the rooms, as far as known."""
        return {user_id for room in rooms for user_id in self._present.get(room, ())}

    def among(self, users: Set[str], rooms: Set[int]) -> set[str]:
        """Those of the users who are in one of the rooms; walks over who is about there or over them, the fewer."""
        present = [self._present[room] for room in rooms if room in self._present]
        if sum(map(len, present)) < len(users):
            return {user_id for each in present for user_id in each if user_id in users}
        return {user_id for user_id in users if not rooms.isdisjoint(self.rooms(user_id))}

    def joined_since(self, user_id: str, position: int) -> frozenset[int]:
        """The rooms that the user joined after a position; perhaps others too, if that is long ago."""
        rooms = self.rooms(user_id)
        joins = self._joins.get(user_id)
        if position < self._floor or (joins and len(joins) == JOINS_KEPT and position < joins[0][0]):
            return rooms
        return frozenset(room for at, room in joins if at > position) if joins else NO_ROOMS

    def joiners_since(self, position: int) -> Iterable[str]:
        """Users who joined a room after a position; none if it is not known, when everyone is taken to have."""
        if position < self._floor:
            return ()
        first = bisect_right(self._joiners, position, key=lambda joiner: joiner[0])
        return [user_id for _, user_id in self._joiners[first:]]

    def shares(self, user_id: str, other: str) -> bool:
        """Whether the one may know of the other."""
        return user_id == other or not self.rooms(user_id).isdisjoint(self.rooms(other))

    def changed(self, change: Change) -> Iterable[str]:
        """A commit: the rooms of users it touched are to be loaded again."""
        if change.unknown:
            self.stale.update(self._tracked)
        elif change.rooms:
            if change.users:
                self.moved(change.users)
            if change.remote:
                self.moved(change.remote)
            if change.whole and change.count:  # only users of this server are named
                self._crowded(change.rooms)
            elif change.crowded:
                self._crowded(change.crowded)
        return ()

    def moved(self, users: Iterable[str]) -> None:
        """The rooms of these users are others now."""
        self.stale.update(self._tracked.intersection(users))

    def _crowded(self, rooms: Iterable[int]) -> None:
        """Users of whom not each was told came to these rooms, or left them."""
        self.placed.update(rooms)
        self.stale |= self.present(rooms) | self._loading  # of these it may be read that they are still there
