# SPDX-License-Identifier: Apache-2.0
"""Waking those who wait here for rooms that another process writes and this one does not hold in memory.

The room cache wakes the members of rooms it knows. Of the others only their keys are heard; but whoever waits has
looked, so the rooms they are in are in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set

from homeserver.needs import Protocol
from homeserver.stream.changes import Change


class UserRooms(Protocol):
    """The rooms of users; `rooms.user_rooms.UserRooms` is one."""

    def concerned(self, users: Set[str], rooms: Collection[int]) -> Iterable[str]: ...


class Listening(Protocol):
    """Who waits; `Stream.listeners` is one."""

    @property
    def users(self) -> Set[str]: ...


class HeldRooms(Protocol):
    def held_key(self, key: int) -> object | None:
        """The room, if it is in memory: then its cache wakes those who wait for it."""


class ForeignWakes:
    """One per process; subscribes to the stream."""

    def __init__(self, user_rooms: UserRooms, listening: Listening, rooms: HeldRooms) -> None:
        self._user_rooms = user_rooms
        self._listening = listening
        self._rooms = rooms

    def changed(self, change: Change) -> Iterable[str]:
        """A commit. Who is named in it is woken anyway."""
        if not change.foreign or not change.rooms:
            return ()
        rooms = [key for key in change.rooms if self._rooms.held_key(key) is None]
        return self._user_rooms.concerned(self._listening.users, rooms) if rooms else ()
