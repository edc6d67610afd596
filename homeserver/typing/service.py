# SPDX-License-Identifier: Apache-2.0
"""Typing notifications (client-server API, "Typing Notifications").

Owns who types in which room, until when, and what a sync tells of it. Nothing is stored: other processes are told by
NOTIFY on the channel `typing`, and each lets what it knows run out by itself. Other servers are told by the process
where it happened (`TypingElsewhere`), and their users' typing comes in by `Typing.receive`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import orjson
from twisted.internet.defer import Deferred

from homeserver.errors import Forbidden
from homeserver.needs import Protocol
from homeserver.rooms.engine import Room, RoomCache
from homeserver.rooms.listening import Readers
from homeserver.stream.changes import Change
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.stream.listeners import Listeners

logger = logging.getLogger(__name__)

CHANNEL = "typing"
DEFAULT_TIMEOUT = 30_000
MAX_TIMEOUT = 120_000
REMOTE_TIMEOUT = 60_000
"""For users of other servers, which say it again while it lasts, and give no time."""
MOST_REMOTE = 100
"""Users of other servers who type in one room at once, as far as it is told."""
ROOMS_REMEMBERED = 20_000
"""Rooms where nobody types any more, kept to tell so to those who were away."""


class DelayedCall(Protocol):
    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """The reactor's part that is needed here."""

    def callLater(self, delay: float, fn: Callable[..., object], /, *args: object) -> Any: ...  # noqa: N802


class RoomGate(Protocol):
    async def access_joined_room(self, user_id: str, room_id: str) -> Room: ...


class TypingElsewhere(Protocol):
    """Other servers in the room, to be told of this server's users."""

    def typing(self, room: Room, user_id: str, *, typing: bool) -> None: ...


class NobodyElsewhere:
    """For a server that knows no others."""

    def typing(self, room: Room, user_id: str, *, typing: bool) -> None:
        """Nobody is told."""


Notify = Callable[[str, str], Awaitable[object]]
"""`notify(channel, payload)`: tells all processes, this one too."""


class _Room:
    """Who types in a room, in the order they began; `serial` is that of the last change.

    `doubted`: those of whom another process wrote something, perhaps that they left. They are not told of meanwhile.
    `written` counts the commits to the room since there were any.
    """

    __slots__ = ("doubted", "serial", "users", "written")

    def __init__(self) -> None:
        self.serial = 0
        self.users: dict[str, DelayedCall] = {}
        self.doubted: dict[str, DelayedCall] = {}
        self.written = 0

    def take(self, user_id: str) -> DelayedCall | None:
        """What would run out, which is the caller's now."""
        return self.users.pop(user_id, None) or self.doubted.pop(user_id, None)


class TypingNews:
    """What is known of all rooms; subscribes to the stream. One per process."""

    def __init__(
        self,
        *,
        clock: EphemeralClock,
        scheduler: Scheduler,
        cache: RoomCache,
        listeners: Listeners,
        readers: Readers,
        elsewhere: TypingElsewhere,
    ) -> None:
        self._clock = clock
        self._scheduler = scheduler
        self._cache = cache
        self._listeners = listeners
        self._readers = readers
        self._elsewhere = elsewhere
        self._rooms: OrderedDict[int, _Room] = OrderedDict()

    def begin(self, room_key: int, user_id: str, timeout_ms: int, *, here: bool = False) -> None:
        """The user types, for the time being. `here`: of this server, and told to this process, which tells others when
        it runs out.
        """
        room = self._rooms.get(room_key)
        if room is None:
            room = self._rooms[room_key] = _Room()
        doubted = room.doubted.pop(user_id, None)
        if doubted is not None:
            doubted.cancel()
        running = room.users.get(user_id)
        if running is not None:
            running.cancel()
        room.users[user_id] = self._scheduler.callLater(
            timeout_ms / 1000, self._expired, room_key, user_id, here
        )
        if running is None:
            self._moved(room_key, room)

    def end(self, room_key: int, user_id: str) -> bool:
        """The user stopped; whether that is news."""
        room = self._rooms.get(room_key)
        running = None if room is None else room.take(user_id)
        if room is None or running is None:
            return False
        running.cancel()
        self._moved(room_key, room)
        return True

    def in_room(self, room_key: int) -> list[str]:
        """Who types there now."""
        room = self._rooms.get(room_key)
        return [] if room is None else list(room.users)

    def since(self, rooms: Iterable[int], serial: int) -> dict[int, list[str]]:
        """For each of the rooms with news since: everyone who types there now. From the start only where one does."""
        found: dict[int, list[str]] = {}
        if not self._rooms or next(reversed(self._rooms.values())).serial <= serial:
            return found
        for key in rooms:
            room = self._rooms.get(key)
            if room is not None and room.serial > serial and (serial or room.users):
                found[key] = list(room.users)
        return found

    def stop(self) -> None:
        """Drop what would still run out."""
        for room in self._rooms.values():
            for running in (*room.users.values(), *room.doubted.values()):
                running.cancel()
        self._rooms.clear()

    def changed(self, change: Change) -> Iterable[str]:
        """A commit: whoever left a room types there no more."""
        for key in change.rooms if self._rooms else ():
            room = self._rooms.get(key)
            if room is None or not (room.users or room.doubted):
                continue
            room.written += 1
            held = self._cache.peek_key(key)
            if held is None:  # after another process' write
                self._doubt(key, room, change.users)
                continue
            for user_id in tuple(room.users):
                if not held.head.is_joined(user_id):
                    self.end(key, user_id)
        return ()

    def _doubt(self, key: int, room: _Room, moved: Iterable[str]) -> None:
        """Their membership of the room, or of another, or no more than how they are shown there was written."""
        doubted = {user_id: room.users.pop(user_id) for user_id in moved if user_id in room.users}
        if not doubted:
            return
        asked = not room.doubted
        room.doubted.update(doubted)
        self._moved(key, room)
        if asked:
            Deferred.fromCoroutine(self._settle(key, room)).addErrback(
                lambda failure: logger.warning("who types is not known", exc_info=failure.value)
            )

    async def _settle(self, key: int, room: _Room) -> None:
        """Go on telling of those who are in the room still."""
        written = -1
        while written != room.written:  # until nothing was written meanwhile
            written = room.written
            found = await self._cache.get_many(keys=(key,))
        joined = {user for held in found.values() for user in room.doubted if held.head.is_joined(user)}
        for user_id, running in room.doubted.items():
            if user_id in joined:
                room.users[user_id] = running
            else:
                running.cancel()
        room.doubted.clear()
        if joined:
            self._moved(key, room)

    def _expired(self, room_key: int, user_id: str, here: bool) -> None:
        room = self._rooms[room_key]
        room.take(user_id)
        self._moved(room_key, room)
        held = self._cache.peek_key(room_key) if here else None
        if held is not None:
            self._elsewhere.typing(held, user_id, typing=False)

    def _moved(self, room_key: int, room: _Room) -> None:
        room.serial = self._clock.next()
        self._rooms.move_to_end(room_key)
        if len(self._rooms) > ROOMS_REMEMBERED:
            self._forget_one()
        self._listeners.wake(self._readers(room_key))

    def _forget_one(self) -> None:
        oldest = next((key for key, room in self._rooms.items() if not (room.users or room.doubted)), None)
        if oldest is not None:
            del self._rooms[oldest]


class Typing:
    """One per process."""

    def __init__(
        self,
        *,
        origin: str,
        gate: RoomGate,
        news: TypingNews,
        notify: Notify,
        elsewhere: TypingElsewhere,
    ) -> None:
        """`news` must be subscribed to the stream, and `heard` be called with what the channel says."""
        self._origin = origin
        self._elsewhere = elsewhere
        self._gate = gate
        self._news = news
        self._notify = notify

    async def set(
        self, user_id: str, target: str, room_id: str, *, typing: bool, timeout_ms: int = DEFAULT_TIMEOUT
    ) -> None:
        """Say that the user types for so many milliseconds, or no longer. Raises Forbidden.

        `target`: whom the notice names, which must be who sends it. Timeouts are kept within 1 ms and two minutes.
        """
        if target != user_id:
            raise Forbidden("You can only say that you are typing yourself")
        room = await self._gate.access_joined_room(user_id, room_id)
        duration = min(max(timeout_ms, 1), MAX_TIMEOUT)
        if typing:
            self._news.begin(room.key, user_id, duration, here=True)
        elif not self._news.end(room.key, user_id):
            return
        self._elsewhere.typing(room, user_id, typing=typing)
        await self._tell(room.key, user_id, duration if typing else 0)

    async def receive(self, room: Room, user_id: str, *, typing: bool) -> None:
        """Another server says that a user of its own types, or no longer. That they are in the room was checked."""
        if typing:
            typists = self._news.in_room(room.key)
            if user_id not in typists and len(typists) >= MOST_REMOTE:
                return
            self._news.begin(room.key, user_id, REMOTE_TIMEOUT)
        elif not self._news.end(room.key, user_id):
            return
        await self._tell(room.key, user_id, REMOTE_TIMEOUT if typing else 0)

    async def _tell(self, room_key: int, user_id: str, duration: int) -> None:
        told = [self._origin, room_key, user_id, duration]
        await self._notify(CHANNEL, orjson.dumps(told).decode())

    def changed(self, user_id: str, rooms: Iterable[int], since_ms: int) -> Mapping[int, list[str]]:
        """For each of the rooms with news since a serial: everyone who types there, also nobody any more."""
        return self._news.since(rooms, since_ms)

    def heard(self, payload: str) -> None:
        """A notification; our own are known already."""
        origin, room_key, user_id, duration = orjson.loads(payload)
        if origin == self._origin:
            return
        if duration:
            self._news.begin(room_key, user_id, duration)
        else:
            self._news.end(room_key, user_id)
