# SPDX-License-Identifier: Apache-2.0
"""In which rooms somebody came or went lately, so far as that can be told from memory.

Lets a sync of a room where people only talk do without asking who is there. Errs on the side of "perhaps".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol
from weakref import ReferenceType, ref

from immutables import Map

from homeserver.rooms.engine import Room
from homeserver.stream.changes import Change, LatestPositions

MOST_ROOMS = 50_000


class Rooms(Protocol):
    """The rooms in memory; `RoomCache` is one."""

    def peek_key(self, key: int) -> Room | None:
        """The room, if it is in memory and up to date."""
        ...


class MemberMoves:
    """One per process; subscribes to the stream, after the room cache."""

    def __init__(self, position: int, rooms: Rooms) -> None:
        self._rooms = rooms
        self._latest: LatestPositions[int] = LatestPositions(position)
        # What the members were: a head shares its members with the one before it if nobody's membership changed.
        self._seen: dict[int, ReferenceType[Map]] = {}  # type: ignore[type-arg]

    def may_have_changed(self, room: int, since: int) -> bool:
        """False only if nobody came or went in the room after the position."""
        return self._latest.may_have_changed(room, since)

    def changed(self, change: Change) -> Iterable[str]:
        """A commit."""
        if change.unknown:
            self._latest.forget_all(change.position)
            self._seen.clear()
            return ()
        for key in change.rooms:
            room = self._rooms.peek_key(key)
            members = None if room is None or room.stale else room.head.members
            seen = self._seen.get(key)
            if members is None:
                self._seen.pop(key, None)
            elif seen is not None and seen() is members:
                continue
            else:
                self._seen[key] = ref(members)
            self._latest.record((key,), change.position)
        if len(self._seen) > MOST_ROOMS:
            self._seen.clear()
        return ()
