# SPDX-License-Identifier: Apache-2.0
"""Typing notifications (client-server API, "Typing Notifications").

Owns who types in which room, until when, and what a sync tells of it. Nothing is stored: all processes are told by
NOTIFY on the channel `typing_notices`, and each takes up what it hears, in the one order of it
(`stream/ephemeral.py`); what it says itself, too. Only a process by itself takes it up at once.

That a notice runs out, or that its user left the room, is announced in the same way, by the process where it began. The
others wait a little longer and announce it in its place, should it be gone. What nobody could announce ends by itself.

Other servers are told by the process where it happened (`TypingElsewhere`), and their users' typing comes in by
`Typing.receive`.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import orjson
from msgspec import Struct
from twisted.internet.defer import Deferred

from homeserver.errors import Forbidden
from homeserver.needs import Protocol
from homeserver.rooms.engine import Room, RoomCache
from homeserver.rooms.listening import Readers
from homeserver.stream.changes import Change
from homeserver.stream.ephemeral import EphemeralClock
from homeserver.stream.listeners import Listeners

logger = logging.getLogger(__name__)

CHANNEL = "typing_notices"
"""Named otherwise whenever its form changes: during a reload, processes of the release before are there too."""
DEFAULT_TIMEOUT = 30_000
MAX_TIMEOUT = 120_000
REMOTE_TIMEOUT = 60_000
"""For users of other servers, which say it again while it lasts, and give no time."""
MOST_REMOTE = 100
"""Users of other servers who type in one room at once, as far as it is told."""
ROOMS_REMEMBERED = 20_000
"""Rooms where nobody types any more, kept to tell so to those who were away."""
GRACE = 5.0
"""Seconds that others wait for the process where a notice began to announce its end, and that anyone waits for the
announcement."""


class DelayedCall(Protocol):
    def cancel(self) -> None: ...
    def active(self) -> bool: ...


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


class Others(Protocol):
    """Whether there are other processes; `stream.hearing.Hearing` knows."""

    @property
    def has_others(self) -> bool: ...


class _Typist(Struct):
    """`mine`: it began in this process. `ours`: the user is of this server. `ending`: the end was announced."""

    running: DelayedCall
    mine: bool
    ours: bool
    ending: bool = False


class _Room:
    """Who types in a room, in the order they began; `serial` is that of the last change.

    `written` counts the commits of others to the room after which it is asked who is in it; `asking`: that goes on.
    """

    __slots__ = ("asking", "serial", "users", "written")

    def __init__(self) -> None:
        self.serial = 0
        self.users: dict[str, _Typist] = {}
        self.written = 0
        self.asking = False

    @property
    def mine(self) -> list[str]:
        """Of whose end this process is to tell, and did not yet."""
        return [user_id for user_id, typist in self.users.items() if typist.mine and not typist.ending]


class TypingNews:
    """What is known of all rooms; subscribes to the stream. One per process."""

    def __init__(
        self,
        *,
        origin: str,
        clock: EphemeralClock,
        scheduler: Scheduler,
        cache: RoomCache,
        listeners: Listeners,
        readers: Readers,
        notify: Notify,
        others: Others,
        elsewhere: TypingElsewhere,
    ) -> None:
        """`heard` must be called with what the channel says. `origin` names this process."""
        self._origin = origin
        self._clock = clock
        self._scheduler = scheduler
        self._cache = cache
        self._listeners = listeners
        self._readers = readers
        self._notify = notify
        self._others = others
        self._elsewhere = elsewhere
        self._rooms: OrderedDict[int, _Room] = OrderedDict()
        self._under_way: Counter[tuple[int, str]] = Counter()
        """Who begins, as this process said, but did not hear yet."""
        self._stopped = False

    # What is told.

    async def tell(self, room_key: int, user_id: str, duration_ms: int, *, ours: bool) -> None:
        """All processes: the user types for so long; for 0, no longer. `ours`: they are of this server."""
        if not self._others.has_others:
            self._take(room_key, user_id, duration_ms, mine=True, ours=ours, serial=self._clock.next())
            return
        news = [self._origin, self._clock.propose(), room_key, user_id, duration_ms, ours]
        if duration_ms:
            self._under_way[room_key, user_id] += 1
        try:
            await self._notify(CHANNEL, orjson.dumps(news).decode())
        except BaseException:
            self._arrived(room_key, user_id, duration_ms)
            raise

    def heard(self, payload: str) -> None:
        """A notification, our own too."""
        origin, proposed, room_key, user_id, duration_ms, ours = orjson.loads(payload)
        serial, mine = self._clock.apply(proposed), origin == self._origin
        if mine:
            self._arrived(room_key, user_id, duration_ms)
        self._take(room_key, user_id, duration_ms, mine=mine, ours=ours, serial=serial)

    def missed(self) -> None:
        """Notifications may have got lost. What began here and was missed the others know, and end."""
        self._under_way.clear()

    def _arrived(self, room_key: int, user_id: str, duration_ms: int) -> None:
        """What was under way is not any more. With an end goes what may have got lost on its way."""
        begun = self._under_way.pop((room_key, user_id), 0)
        if duration_ms and begun > 1:
            self._under_way[room_key, user_id] = begun - 1

    def _take(
        self, room_key: int, user_id: str, duration_ms: int, *, mine: bool, ours: bool, serial: int
    ) -> None:
        if self._stopped:
            return
        room = self._rooms.get(room_key)
        if room is None:
            room = self._rooms[room_key] = _Room()
        before = room.users.get(user_id)
        if before is not None and before.running.active():
            before.running.cancel()
        if duration_ms:
            seconds = duration_ms / 1000 + (0 if mine else GRACE)
            running = self._scheduler.callLater(seconds, self._ran_out, room_key, user_id)
            room.users[user_id] = _Typist(running, mine, ours)
            if before is None:
                self._moved(room_key, room, serial)
            if mine:
                self._look_who_left(room_key, room, (user_id,))
        else:
            # Also of whom nothing is known: a process that is here for longer may have told of them.
            room.users.pop(user_id, None)
            self._moved(room_key, room, serial)

    # What is known.

    def may_type(self, room_key: int, user_id: str) -> bool:
        """Whether it would be news that the user stopped."""
        room = self._rooms.get(room_key)
        return (room is not None and user_id in room.users) or (room_key, user_id) in self._under_way

    def count(self, room_key: int) -> int:
        """How many type there, or are about to."""
        return len(self.in_room(room_key)) + sum(key == room_key for key, _ in self._under_way)

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

    # What ends it.

    def stop(self) -> None:
        """Drop what would still run out."""
        for room in self._rooms.values():
            for typist in room.users.values():
                if typist.running.active():
                    typist.running.cancel()
        self._rooms.clear()
        self._stopped = True

    def changed(self, change: Change) -> Iterable[str]:
        """A commit: whoever left a room types there no more, which is told by the process where they began."""
        for key in change.rooms if self._rooms else ():
            room = self._rooms.get(key)
            if room is not None and room.users:
                self._look_who_left(key, room, change.users)
        return ()

    def _look_who_left(self, key: int, room: _Room, moved: Iterable[str]) -> None:
        """`moved`: whose membership of the room, or of another, or how they are shown, was perhaps written."""
        mine = room.mine
        held = self._cache.peek_key(key) if mine else None
        if held is not None:
            for user_id in mine:
                if not held.head.is_joined(user_id):
                    self._end(key, user_id)
        elif not set(mine).isdisjoint(moved):  # after another process' write
            room.written += 1
            if not room.asking:
                room.asking = True
                Deferred.fromCoroutine(self._ask_who_left(key, room)).addErrback(
                    lambda failure: logger.warning("who types is not known", exc_info=failure.value)
                )

    async def _ask_who_left(self, key: int, room: _Room) -> None:
        try:
            written = -1
            while written != room.written:  # until nothing was written meanwhile
                written = room.written
                found = await self._cache.get_many(keys=(key,))
        finally:
            room.asking = False
        for user_id in room.mine:
            if not any(held.head.is_joined(user_id) for held in found.values()):
                self._end(key, user_id)

    def _ran_out(self, key: int, user_id: str) -> None:
        typist = self._rooms[key].users[user_id]
        if typist.ending:  # the announcement did not arrive
            self._take(key, user_id, 0, mine=True, ours=typist.ours, serial=self._clock.next())
            return
        held = self._cache.peek_key(key) if typist.mine and typist.ours else None
        self._end(key, user_id)
        if held is not None:
            self._elsewhere.typing(held, user_id, typing=False)

    def _end(self, key: int, user_id: str) -> None:
        """Have all processes take note of the end."""
        if self._stopped:
            return
        typist = self._rooms[key].users[user_id]
        if typist.running.active():
            typist.running.cancel()
        typist.running = self._scheduler.callLater(GRACE, self._ran_out, key, user_id)
        typist.ending = True
        Deferred.fromCoroutine(self.tell(key, user_id, 0, ours=typist.ours)).addErrback(
            lambda failure: logger.warning("the end of typing could not be told", exc_info=failure.value)
        )

    def _moved(self, room_key: int, room: _Room, serial: int) -> None:
        room.serial = serial
        self._rooms.move_to_end(room_key)
        if len(self._rooms) > ROOMS_REMEMBERED:
            self._forget_one()
        self._listeners.wake(self._readers(room_key))

    def _forget_one(self) -> None:
        oldest = next((key for key, room in self._rooms.items() if not room.users), None)
        if oldest is not None:
            del self._rooms[oldest]


class Typing:
    """One per process."""

    def __init__(self, *, gate: RoomGate, news: TypingNews, elsewhere: TypingElsewhere) -> None:
        """`news` must be subscribed to the stream."""
        self._elsewhere = elsewhere
        self._gate = gate
        self._news = news

    async def set(
        self, user_id: str, target: str, room_id: str, *, typing: bool, timeout_ms: int = DEFAULT_TIMEOUT
    ) -> None:
        """Say that the user types for so many milliseconds, or no longer. Raises Forbidden.

        `target`: whom the notice names, which must be who sends it. Timeouts are kept within 1 ms and two minutes.
        """
        if target != user_id:
            raise Forbidden("You can only say that you are typing yourself")
        room = await self._gate.access_joined_room(user_id, room_id)
        if not typing and not self._news.may_type(room.key, user_id):
            return
        duration = min(max(timeout_ms, 1), MAX_TIMEOUT) if typing else 0
        self._elsewhere.typing(room, user_id, typing=typing)
        await self._news.tell(room.key, user_id, duration, ours=True)

    async def receive(self, room: Room, user_id: str, *, typing: bool) -> None:
        """Another server says that a user of its own types, or no longer. That they are in the room was checked."""
        news = self._news
        if not news.may_type(room.key, user_id) and (not typing or news.count(room.key) >= MOST_REMOTE):
            return
        await news.tell(room.key, user_id, REMOTE_TIMEOUT if typing else 0, ours=False)

    def changed(self, user_id: str, rooms: Iterable[int], since_ms: int) -> Mapping[int, list[str]]:
        """For each of the rooms with news since a serial: everyone who types there, also nobody any more."""
        return self._news.since(rooms, since_ms)
