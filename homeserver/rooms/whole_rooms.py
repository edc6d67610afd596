# SPDX-License-Identifier: Apache-2.0
"""Waiting for rooms of which only a part of the members is known yet, where somebody needs them all.

Owns the waiting, for a bounded time; what is done then with what is known is the caller's to decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred

from homeserver.errors import RemoteServerFailed
from homeserver.rooms.engine import Room, RoomCache
from homeserver.stream.changes import Change

PATIENCE = 20.0
"""Seconds; less than clients and proxies wait for an answer."""


class WholeRooms:
    """One per process; subscribes to the stream."""

    def __init__(self, cache: RoomCache, scheduler: Any) -> None:
        """`scheduler` has `callLater`, as the reactor."""
        self._cache = cache
        self._scheduler = scheduler
        self._waiting: dict[int, list[Deferred[None]]] = {}

    async def knows(self, room_id: str, user_id: str) -> None:
        """Return once it is known what the user is in the room, if it ever was anything. Raises as `get`."""
        room = await self._cache.get(room_id)
        if room is not None and user_id not in room.head.members:
            await self.get(room_id)

    async def get(self, room_id: str) -> Room | None:
        """The room, once its members are known; None if there is no such room.

        Raises RemoteServerFailed if they are not known in time.
        """
        room = await self._cache.get(room_id)
        if room is None or room.head.partial_servers is None:
            return room
        late: list[int] = []

        def give_up(key: int) -> None:
            late.append(key)
            self._wake(key)

        deadline = self._scheduler.callLater(PATIENCE, give_up, room.key)
        try:
            while True:
                moved: Deferred[None] = Deferred()
                self._waiting.setdefault(room.key, []).append(moved)
                try:
                    # Only now: what completes it from here on is heard of.
                    again = await self._cache.get(room_id)
                    if again is None or again.head.partial_servers is None:
                        return again
                    if late:
                        raise RemoteServerFailed(
                            "The members of this room are not known here yet; try again soon"
                        )
                    await moved
                finally:
                    self._leave(room.key, moved)
        finally:
            if deadline.active():
                deadline.cancel()

    def changed(self, change: Change) -> Iterable[str]:
        """A commit: look again at the rooms it moved."""
        if self._waiting:
            for key in tuple(self._waiting) if change.unknown else change.rooms:
                if key in self._waiting:
                    # Only when the commit is shown, and the room therefore known to be out of date.
                    self._scheduler.callLater(0, self._wake, key)
        return ()

    def _leave(self, key: int, moved: Deferred[None]) -> None:
        waiting = self._waiting.get(key, [])
        if moved in waiting:
            waiting.remove(moved)
            if not waiting:
                del self._waiting[key]

    def _wake(self, key: int) -> None:
        for deferred in self._waiting.pop(key, ()):
            deferred.callback(None)
