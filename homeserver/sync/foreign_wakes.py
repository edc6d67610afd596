# SPDX-License-Identifier: Apache-2.0
"""Waking those who wait here for rooms that another process writes and this one does not hold in memory.

The room cache wakes the members of rooms it knows. Of the others only their keys are heard; so whoever waits is
remembered with the rooms they are in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from typing import Protocol

from homeserver.stream.changes import Change


class UserRooms(Protocol):
    """The rooms of a user, by key; `rooms.user_rooms.UserRooms` is one."""

    def of(self, user_id: str) -> Awaitable[Mapping[int, object]]: ...


class ForeignWakes:
    """One per process; subscribes to the stream."""

    def __init__(self, user_rooms: UserRooms) -> None:
        self._user_rooms = user_rooms
        self._waiting: dict[str, int] = {}
        self._rooms: dict[str, Mapping[int, object]] = {}

    def begin(self, user_id: str) -> None:
        """The user waits."""
        self._waiting[user_id] = self._waiting.get(user_id, 0) + 1

    async def refresh(self, user_id: str) -> None:
        """Take note of the rooms the user is in now, before looking whether there is news."""
        rooms = await self._user_rooms.of(user_id)
        if user_id in self._waiting:
            self._rooms[user_id] = rooms

    def end(self, user_id: str) -> None:
        """One of the user's waits is over."""
        left = self._waiting[user_id] - 1
        if left:
            self._waiting[user_id] = left
        else:
            del self._waiting[user_id]
            self._rooms.pop(user_id, None)

    def changed(self, change: Change) -> Iterable[str]:
        """A commit. Who is named in it is woken anyway."""
        if not change.foreign or not change.rooms:
            return ()
        return [
            user_id for user_id, rooms in self._rooms.items() if not rooms.keys().isdisjoint(change.rooms)
        ]
