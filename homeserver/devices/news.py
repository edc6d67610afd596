# SPDX-License-Identifier: Apache-2.0
"""What moved lately of devices: lists, messages, key counts; of this process at once, of the others by notification.

Lets a sync without such news be answered without a query. Owns the channel `devices`, whose notifications come just
before the stream's own of the same commit (migrations 0013 and 0019): they are kept until that one is heard, so that
nothing is shown before its position. Bounded: of what was forgotten only the position is kept below which nothing is
known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any, Literal, NamedTuple

import orjson

from homeserver.stream.changes import Change, LatestPositions

Kind = Literal["lists", "messages", "counts", "signed"]

LIST_BYTES = 16_000_000
"""Changes of lists that are remembered, unless told otherwise."""
LONGEST_WAIT = 50_000
"""Notifications kept for commits that were not heard of yet."""


class Moved(NamedTuple):
    """Something moved at a position."""

    kind: Kind
    position: int
    user_id: str
    detail: str = ""
    """The device of `counts`, whose keys were `signed`."""
    rooms: frozenset[int] | None = frozenset()
    """Of `lists`: the rooms the user is joined to; None: not known."""

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        return 400 + 90 * len(self.rooms or ())


class DeviceNews:
    """One per process; subscribes to the stream, after the room cache, and hears the channel `devices`."""

    def __init__(
        self,
        *,
        origin: str,
        position: int,
        readers: Callable[[Set[int]], Iterable[str]],
        listening: Callable[[], Set[str]],
        list_bytes: int = LIST_BYTES,
    ) -> None:
        """`position`: where the stream stands. `readers` gives, of the users who wait, those in one of some rooms;
        `listening` all. `list_bytes`: how much is remembered of changes of lists."""
        self._origin = origin
        self._own_news = f', "{origin}", '
        self._readers = readers
        self._listening = listening
        self._floor = position
        self._list_bytes = list_bytes
        self._lists: deque[Moved] = deque()
        self._weight = 0
        self._untold: deque[Moved] = deque()
        self.messages: LatestPositions[str] = LatestPositions(position)
        """By user."""
        self.counts: LatestPositions[tuple[str, str]] = LatestPositions(position)
        """By user and device."""

    def landed(self, moved: Sequence[Moved]) -> set[str]:
        """A commit of this process stands; returns the users to wake."""
        return self._tell(moved)

    def messages_landed(self, users: Set[str], position: int) -> Set[str]:
        """Messages for those users stand; returns the users to wake."""
        self.messages.record(users, position)
        return users

    def counts_landed(self, devices: Sequence[tuple[str, str]], position: int) -> set[str]:
        """Key counts of those devices moved; returns the users to wake."""
        self.counts.record(devices, position)
        return {user_id for user_id, _ in devices}

    @property
    def list_weight(self) -> int:
        """About how many bytes the changes of lists take."""
        return self._weight

    @property
    def newest_list(self) -> int:
        """The position above which no list changed."""
        return self._lists[-1].position if self._lists else self._floor

    def lists_since(self, user_id: str, rooms: Set[int], since: int) -> dict[str, Set[int] | None] | None:
        """Users whose lists changed after a position, as far as they concern who is in those rooms: each with those of
        the rooms they were in, as of a moment before the change had its position; None where that does not matter.

        None altogether: that is not known here.
        """
        if since < self._floor:
            return None
        found: dict[str, Set[int] | None] = {}
        for moved in reversed(self._lists):
            if moved.position <= since:
                break
            if moved.kind == "signed":
                if moved.user_id == user_id:
                    found[moved.detail] = None
            elif moved.rooms is None:
                return None
            elif moved.user_id == user_id:
                found[user_id] = None
            elif not moved.rooms.isdisjoint(rooms):
                known = found.get(moved.user_id, frozenset())
                if known is not None:
                    found[moved.user_id] = known | (moved.rooms & rooms)
        return found

    def listening_since(self, position: int) -> None:
        """The channel is heard from now on; `position` was read from the database after that began."""
        self._forget(position)

    def heard(self, payload: str) -> None:
        """A notification of the channel; our own are known already."""
        if payload.startswith(
            self._own_news, payload.find(",")
        ):  # as the database writes it: no need to take it apart
            return
        kind, origin, position, *rest = orjson.loads(payload)
        if origin == self._origin:
            return
        self._untold.extend(_moved(kind, position, rest))
        while (
            len(self._untold) > LONGEST_WAIT
        ):  # the stream's channel is not heard: it will say so when it is again
            self._untold.popleft()

    def changed(self, change: Change) -> Iterable[str]:
        """A commit: tell what came with it."""
        if change.unknown:
            self._forget(change.position)
            return ()
        told: list[Moved] = []
        while self._untold and self._untold[0].position <= change.position:
            told.append(self._untold.popleft())
        return self._tell(told)

    def _tell(self, moved: Iterable[Moved]) -> set[str]:
        """Remember it; returns the users to wake."""
        wake: set[str] = set()
        rooms: set[int] = set()
        for each in moved:
            wake.add(each.user_id)
            if each.kind == "messages":
                self.messages.record((each.user_id,), each.position)
            elif each.kind == "counts":
                self.counts.record(((each.user_id, each.detail),), each.position)
            else:
                self._remember(each)
                if each.rooms is None:
                    wake.update(self._listening())
                else:
                    rooms |= each.rooms
        if rooms:
            wake.update(self._readers(rooms))
        return wake

    def _remember(self, moved: Moved) -> None:
        if moved.position <= self._floor:
            return
        lists = self._lists
        at = len(lists)  # another process' news may come after ours of a later position
        while at and lists[at - 1].position > moved.position:
            at -= 1
        lists.insert(at, moved)
        self._weight += moved.weight
        while self._weight > self._list_bytes:
            oldest = lists.popleft()
            self._weight -= oldest.weight
            self._floor = max(self._floor, oldest.position)

    def _forget(self, position: int) -> None:
        self._floor = max(self._floor, position)
        self._lists = deque(moved for moved in self._lists if moved.position > self._floor)
        self._weight = sum(moved.weight for moved in self._lists)
        self._untold = deque(moved for moved in self._untold if moved.position > self._floor)
        self.messages.forget_all(position)
        self.counts.forget_all(position)


def _moved(kind: Kind, position: int, rest: Sequence[Any]) -> list[Moved]:
    if kind == "messages":
        return [Moved(kind, position, user_id) for user_id in rest[0]]
    if kind == "counts":
        return [Moved(kind, position, user_id, device_id) for user_id, device_id in rest[0]]
    if kind == "signed":
        return [Moved(kind, position, *rest)]
    user_id, rooms, nowhere = rest
    known = frozenset(rooms) if rooms is not None else frozenset() if nowhere else None
    return [Moved(kind, position, user_id, rooms=known)]
