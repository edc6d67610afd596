# SPDX-License-Identifier: Apache-2.0
"""Which rooms a user is in, kept in memory for users of this server who are about.

Loaded in one query when first asked for, dropped when a commit changes it, here or in another process. Commits do not
name users of other servers, so those are read each time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Set

from homeserver.stream.changes import Change
from storage.memberships import MembershipStore, Standing

CAPACITY = 100_000
"""Standings kept, each some 450 bytes, unless told otherwise."""


class UserRooms:
    """One per process; subscribes to the stream."""

    def __init__(
        self, store: MembershipStore, *, is_ours: Callable[[str], bool], capacity: int = CAPACITY
    ) -> None:
        """`is_ours`: whether a user id is of this server."""
        self._store = store
        self._is_ours = is_ours
        self._by_user: OrderedDict[str, Mapping[int, Standing]] = OrderedDict()
        self._capacity = capacity
        self.size = 0
        """Standings that are kept, a user with none counted as one."""
        self._users_with: dict[int, int] = {}
        """By room, how many of the users who are kept have a standing there."""
        self._generation = 0

    async def of(self, user_id: str) -> Mapping[int, Standing]:
        """The user's standing by room key, in every room they ever had one (forgotten and left ones too)."""
        known = self._by_user.get(user_id)
        if known is not None:
            self._by_user.move_to_end(user_id)
            return known
        generation = self._generation
        rooms = {standing.room: standing for standing in await self._store.standing(user_id)}
        if not self._is_ours(user_id):
            return rooms
        if generation == self._generation:  # nobody's memberships changed while the query ran
            self._drop(user_id)
            self._by_user[user_id] = rooms
            self.size += len(rooms) or 1
            for room in rooms:
                self._users_with[room] = self._users_with.get(room, 0) + 1
            while self.size > self._capacity and len(self._by_user) > 1:
                self._drop(next(iter(self._by_user)))
        return rooms

    def known(self, user_id: str) -> Mapping[int, Standing] | None:
        """The same as `of`; None if it is not in memory."""
        known = self._by_user.get(user_id)
        if known is not None:
            self._by_user.move_to_end(user_id)
        return known

    def concerned(self, users: Set[str], rooms: Collection[int]) -> Collection[str]:
        """Those of the users who have to do with one of the rooms, or of whom that is not known."""
        kept = {room for room in rooms if room in self._users_with}
        if not kept:  # as nearly always where one of many processes hears of rooms of the others
            return self.unknown(users)
        by_user = self._by_user
        return [
            user_id
            for user_id in users
            if (known := by_user.get(user_id)) is None or not known.keys().isdisjoint(kept)
        ]

    def unknown(self, users: Set[str]) -> Collection[str]:
        """Those of the users of whom it is not in memory where they are."""
        known = self._by_user.keys()
        return () if users <= known else users - known

    async def joined(self, user_id: str) -> list[Standing]:
        """The rooms the user is joined to."""
        return [standing for standing in (await self.of(user_id)).values() if standing.membership == "join"]

    def forget(self, user_id: str) -> None:
        """What is known of the user is out of date."""
        self._generation += 1
        self._drop(user_id)

    def _drop(self, user_id: str) -> None:
        known = self._by_user.pop(user_id, None)
        if known is None:
            return
        self.size -= len(known) or 1
        for room in known:
            left = self._users_with[room] - 1
            if left:
                self._users_with[room] = left
            else:
                del self._users_with[room]

    def changed(self, change: Change) -> Iterable[str]:
        """A commit: drop those whose memberships it may have changed."""
        if change.unknown:
            self._generation += 1
            self._by_user.clear()
            self._users_with.clear()
            self.size = 0
        elif change.users:
            self._generation += 1
            for user_id in change.users:
                self._drop(user_id)
        return ()
