# SPDX-License-Identifier: Apache-2.0
"""In which rooms somebody came or went lately, so far as that can be told from memory.

Lets a sync of a room where people only talk do without asking who is there. Errs on the side of "perhaps".
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from weakref import ReferenceType, ref

from immutables import Map

from homeserver.needs import Protocol
from homeserver.rooms.engine import Room
from homeserver.stream.changes import Change, LatestPositions

MOST_ROOMS = 50_000


class Rooms(Protocol):
    """The rooms in memory; `RoomCache` is one."""

    def held_key(self, key: int) -> Room | None:
        """The room, if it is in memory, be it out of date."""
        ...

    def get_many(self, *, keys: Sequence[int]) -> Awaitable[Mapping[str, Room]]:
        """The rooms at their newest; whoever asks for the same at the time shares the query."""
        ...


class MemberMoves:
    """One per process; subscribes to the stream, after the room cache."""

    def __init__(self, position: int, rooms: Rooms) -> None:
        self._rooms = rooms
        self._latest: LatestPositions[int] = LatestPositions(position)
        # What the members were: a head shares its members with the one before it if nobody's membership changed.
        self._seen: dict[int, ReferenceType[Map]] = {}  # type: ignore[type-arg]
        self._unread: dict[int, int] = {}
        """Rooms that another process wrote, up to where: what became of their members shows when they are read."""

    async def read_up(self, rooms: Iterable[int], since: int) -> None:
        """Have those rooms read that another process wrote after the position, so far as they are in memory.

        A sync that has news of them reads them anyway, and shares the query; without, it would take each for one where
        somebody came or went.
        """
        if not self._unread:
            return
        behind = [
            key
            for key in rooms
            if self._unread.get(key, 0) > since
            and (room := self._rooms.held_key(key)) is not None
            and room.stale
        ]
        if behind:
            await self._rooms.get_many(keys=behind)

    def may_have_changed(self, room: int, since: int) -> bool:
        """False only if nobody came or went in the room after the position."""
        unread = self._unread.get(room)
        if unread is not None and not self._read(room, unread) and unread > since:
            return True
        return self._latest.may_have_changed(room, since)

    def is_joined(self, room: int, user_id: str) -> bool | None:
        """Whether somebody is in a room now; None: that would have to be read."""
        held = self._rooms.held_key(room)
        return None if held is None or held.stale else held.head.is_joined(user_id)

    def _read(self, key: int, upto: int) -> bool:
        """Find out what became of the members of a room that was written elsewhere; whether that is known."""
        room = self._rooms.held_key(key)
        if room is not None and room.stale:
            return False
        del self._unread[key]
        self._look(key, room, upto)
        return True

    def _look(self, key: int, room: Room | None, position: int) -> None:
        if room is None:
            self._seen.pop(key, None)
        else:
            seen, members = self._seen.get(key), room.head.members
            if seen is not None and seen() is members:
                return
            self._seen[key] = ref(members)
            # They may be of a commit that is not heard of yet, which will find them seen.
            position = max(position, room.head.position)
        self._latest.record((key,), position)

    def changed(self, change: Change) -> Iterable[str]:
        """A commit."""
        if change.unknown:
            self._latest.forget_all(change.position)
            self._seen.clear()
            self._unread.clear()
            return ()
        for key in change.rooms:
            room = self._rooms.held_key(key)
            if room is not None and room.stale:
                # A head that has the commit already does not tell what the members were before it.
                if key not in self._unread and room.head.position <= change.before:
                    self._seen.setdefault(key, ref(room.head.members))
                self._unread[key] = max(change.position, self._unread.get(key, 0))
            else:
                position = max(change.position, self._unread.pop(key, 0))
                self._look(key, room, position)
        if len(self._seen) > MOST_ROOMS:
            self._seen.clear()
            for key, position in self._unread.items():
                self._latest.record((key,), position)
            self._unread.clear()
        return ()
