# SPDX-License-Identifier: Apache-2.0
"""Of those who wait, who is in a room: whom to wake for a receipt there, for who types, for a member's devices.

Owns telling it from memory, whatever that has of the room. Whoever may be in it is named, since a wake-up too many
costs a look; but everybody would be too many, where a process hears of each receipt in rooms that only others have in
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Set

from homeserver.needs import Protocol
from homeserver.rooms.engine import Room
from homeserver.rooms.engine.head import RoomHead, concerned

Readers = Callable[[int], Iterable[str]]
"""Gives, of the users who wait, those in a room (by key)."""


ReadersOfAny = Callable[[Collection[int]], Iterable[str]]
"""Gives, of the users who wait, those in one of some rooms."""


class Rooms(Protocol):
    """Rooms in memory; `RoomCache` is one."""

    def held_key(self, key: int) -> Room | None: ...


class UserRooms(Protocol):
    """The rooms of users; `user_rooms.UserRooms` is one."""

    def concerned(self, users: Set[str], rooms: Collection[int]) -> Collection[str]: ...

    def unknown(self, users: Set[str]) -> Collection[str]: ...


class Waiting(Protocol):
    """Who waits; `Stream.listeners` is one."""

    @property
    def users(self) -> Set[str]: ...


def readers_in(rooms: Rooms, user_rooms: UserRooms, waiting: Waiting) -> Readers:
    """Made for one process."""

    def readers(room_key: int) -> Iterable[str]:
        users, room = waiting.users, rooms.held_key(room_key)
        if room is None or room.in_doubt:
            return user_rooms.concerned(users, (room_key,))
        here = concerned(room.head, users)
        # Who came with what is not read up yet is woken for that, and where they are was forgotten with it.
        return {*here, *user_rooms.unknown(users), *room.may_have(users)} if room.stale else here

    return readers


def readers_in_any(rooms: Rooms, user_rooms: UserRooms, waiting: Waiting) -> ReadersOfAny:
    """The same for many rooms at once: walks over their members, or once over those who wait, whichever is less."""

    def readers(room_keys: Collection[int]) -> Iterable[str]:
        users, steps = waiting.users, 0
        heads: list[RoomHead] = []
        for key in room_keys:
            room = rooms.held_key(key)
            if room is None or room.stale or steps > len(users):
                return user_rooms.concerned(users, room_keys)
            heads.append(room.head)
            steps += min(len(room.head.members), len(users))
        return {user_id for head in heads for user_id in concerned(head, users)}

    return readers
