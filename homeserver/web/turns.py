# SPDX-License-Identifier: Apache-2.0
"""Who waits, and whose turn is next: by turns between users, and by turns between rooms.

Owns the order only. Each thing that waits stands in two rings, its user's and its room's, and what is next comes from
the one and the other alternately. So every user is certain of half a share among the users, be one of them as greedy
as can be, and every room of half a share among the rooms, be one as busy as can be; a user who owns a thousand rooms
gains nothing by it in the users' ring. What concerns no room stands in a room of its user's.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MOST_TRIES: Final = 64
"""Lanes of a ring that are looked at for one whose turn may come now."""


class _Place(Generic[T]):
    __slots__ = ("room", "taken", "user", "what")

    def __init__(self, what: T, user: str, room: str) -> None:
        self.what = what
        self.user = user
        self.room = room
        self.taken = False


class Turns(Generic[T]):
    """Things that wait. What a method costs does not depend on how many they are."""

    def __init__(self) -> None:
        self._rings: tuple[_Ring[T], _Ring[T]] = (_Ring(), _Ring())
        self._of_user: dict[str, int] = {}
        self._count = 0
        self._turn = 0

    def __len__(self) -> int:
        return self._count

    @property
    def users(self) -> int:
        """How many different ones wait."""
        return len(self._of_user)

    def waiting_of(self, user: str) -> int:
        """How many of one user wait."""
        return self._of_user.get(user, 0)

    def put(self, what: T, user: str, room: str | None) -> None:
        """Have it wait."""
        place = _Place(what, user, room or user)
        self._rings[0].put(place.user, place)
        self._rings[1].put(place.room, place)
        self._of_user[user] = self._of_user.get(user, 0) + 1
        self._count += 1

    def take(self, allowed: Callable[[T], bool]) -> T | None:
        """What is next of what is allowed to be now; None if nothing is."""
        self._turn = 1 - self._turn
        place = self._rings[self._turn].take(allowed) or self._rings[1 - self._turn].take(allowed)
        if place is None:
            return None
        self._count -= 1
        left = self._of_user[place.user] - 1
        if left:
            self._of_user[place.user] = left
        else:
            del self._of_user[place.user]
        if not self._count:  # what was taken of one ring may still lie in the other
            for ring in self._rings:
                ring.clear()
        return place.what


class _Ring(Generic[T]):
    """First come, first served within a lane; lanes by turns."""

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, deque[_Place[T]]] = OrderedDict()

    def put(self, lane: str, place: _Place[T]) -> None:
        waiting = self._lanes.get(lane)
        if waiting is None:
            self._lanes[lane] = deque((place,))
        else:
            while waiting and waiting[0].taken:
                waiting.popleft()
            waiting.append(place)

    def take(self, allowed: Callable[[T], bool]) -> _Place[T] | None:
        """The next that was not taken of the other ring. A lane whose first may not come now has had its turn."""
        for _ in range(min(MOST_TRIES, len(self._lanes))):
            lane, waiting = self._lanes.popitem(last=False)
            while waiting and waiting[0].taken:
                waiting.popleft()
            if not waiting:
                continue
            place = waiting[0]
            taken = place.taken = allowed(place.what)
            if not taken or len(waiting) > 1:
                self._lanes[lane] = waiting
            if taken:
                waiting.popleft()
                return place
        return None

    def clear(self) -> None:
        self._lanes.clear()
