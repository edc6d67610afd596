# SPDX-License-Identifier: Apache-2.0
"""Which rooms the processes of this server are joining or knocking on, known to all of them.

Who let this server in sends it the room's events at once, and to any process; so comes the answer to a knock. So a
process says that it joins before it sends its `send_join`, and again that it has ended, by NOTIFY on the channel
`room_joins`: after what it wrote, so whoever hears of the end finds the room. It says the room's version, too, by which
events that come early are read. Owns that, not the wait (`federation.inbound.rooms`). Nothing is stored: it is said
again while it lasts, and holds for a minute after it was said last, should the process be gone. Who was not there to
hear it asks. A process by itself says nothing.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import orjson
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from homeserver.needs import Protocol
from homeserver.protocol.room_versions import ROOM_VERSIONS, RoomVersion

logger = logging.getLogger(__name__)

CHANNEL: Final = "room_joins"
"""JSON objects: `origin`, and the room's id in `joins` (with its `version`) or `ended`, or `asks`."""
LASTS: Final = 60.0
"""Seconds that a join is taken to go on after its process said so."""
REPEAT: Final = 20.0
"""Seconds between its saying so."""
ANSWERS: Final = 2.0
"""Seconds for the others to answer who asks; until then any room that is not known may be one that is being joined."""
MOST_ROOMS: Final = 1000
"""Rooms of others remembered; of more, those said last."""

Notify = Callable[[str, Sequence[str]], Awaitable[object]]
"""`notify(channel, payloads)`: tells all processes, this one too; they know it before they are asked anything else."""


class DelayedCall(Protocol):
    def cancel(self) -> None: ...
    def active(self) -> bool: ...


class Others(Protocol):
    """Whether there are other processes; `stream.hearing.Hearing` knows."""

    @property
    def has_others(self) -> bool: ...


class _Ours:
    """A room that this process joins: what for, whether it ever said so, and who waits until nothing is left of it."""

    __slots__ = ("handshakes", "said", "waiting")

    def __init__(self) -> None:
        self.handshakes: dict[object, RoomVersion] = {}
        """The room's version as each was told it; the one told last comes last."""
        self.said = False
        self.waiting: list[Deferred[None]] = []

    @property
    def version(self) -> RoomVersion:
        return next(reversed(self.handshakes.values()))


class _Room:
    """A room that others join: until when each is believed, of which version, and who waits until none does."""

    __slots__ = ("lasting", "version", "waiting")

    def __init__(self) -> None:
        self.lasting: dict[str, DelayedCall] = {}
        self.version: RoomVersion | None = None
        self.waiting: list[Deferred[None]] = []


class JoinsElsewhere:
    """One per process."""

    def __init__(self, *, origin: str, notify: Notify, others: Others, scheduler: Any) -> None:
        """`origin` names this process. `heard` must be called with what the channel says, `missed` where it may have
        said more.
        """
        self._origin = origin
        self._notify = notify
        self._others = others
        self._scheduler = scheduler
        self._mine: dict[str, _Ours] = {}
        self._theirs: OrderedDict[str, _Room] = OrderedDict()
        self._repeating: DelayedCall | None = None
        self._sure_at = 0.0
        """When all have answered that had to, in seconds of the scheduler."""

    # What is told

    async def tell(self, room_id: str, version: RoomVersion, handshake: object) -> None:
        """This process joins the room, or knocks; all the others know when it returns. Raises DatabaseFailure.

        `handshake` tells what for: it lasts until all are ended, each of which may be told several times.
        """
        ours = self._mine.setdefault(room_id, _Ours())
        ours.handshakes.pop(handshake, None)
        ours.handshakes[handshake] = version
        if self._repeating is None:
            self._repeating = self._scheduler.callLater(REPEAT, self._repeat)
        if self._others.has_others:
            ours.said = True
            await self._notify(CHANNEL, [self._joins(room_id, ours)])

    def end(self, room_id: str, handshake: object) -> None:
        """It does not any more, or never did; the others hear of it in a moment."""
        ours = self._mine.get(room_id)
        if ours is None or ours.handshakes.pop(handshake, None) is None or ours.handshakes:
            return
        del self._mine[room_id]
        if ours.said:
            self._say([self._word(ended=room_id)])
        if not self._mine:
            self._repeat_no_more()
        _fire(ours.waiting)

    async def ask(self) -> None:
        """Have the others say what they join: this process is new, or may have missed it. Raises DatabaseFailure."""
        if self._others.has_others:
            self._sure_at = self._scheduler.seconds() + ANSWERS
            await self._notify(CHANNEL, [self._word(asks=True)])

    def missed(self) -> None:
        """What others said may have got lost."""
        self._background(self.ask())

    def stop(self) -> None:
        """Say nothing more, and wait for nobody."""
        mine, self._mine = self._mine, {}
        self._repeat_no_more()
        for ours in mine.values():
            _fire(ours.waiting)
        for room_id in tuple(self._theirs):
            self._forget(room_id)

    def _repeat(self) -> None:
        self._repeating = self._scheduler.callLater(REPEAT, self._repeat)
        if self._others.has_others:  # somebody may have come since
            self._say_all()

    def _repeat_no_more(self) -> None:
        if self._repeating is not None:
            self._repeating.cancel()
            self._repeating = None

    def _say_all(self) -> None:
        for ours in self._mine.values():
            ours.said = True
        self._say([self._joins(room_id, ours) for room_id, ours in self._mine.items()])

    def _say(self, payloads: Sequence[str]) -> None:
        async def say() -> None:
            await self._notify(CHANNEL, payloads)

        self._background(say())

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        Deferred.fromCoroutine(work).addErrback(
            lambda failure: logger.warning(
                "which rooms are being joined was not told", exc_info=failure.value
            )
        )

    def _joins(self, room_id: str, ours: _Ours) -> str:
        return self._word(joins=room_id, version=str(ours.version))

    def _word(self, **words: object) -> str:
        return orjson.dumps({"origin": self._origin, **words}).decode()

    # What is known

    def under_way(self, room_id: str) -> Deferred[Any] | None:
        """Fires once no process joins the room or knocks on it; None if none does."""
        ours, theirs = self._mine.get(room_id), self._under_way_elsewhere(room_id)
        if ours is None:
            return theirs
        done: Deferred[None] = Deferred()
        ours.waiting.append(done)
        return done if theirs is None else DeferredList([done, theirs], consumeErrors=True)

    def version(self, room_id: str) -> RoomVersion | None:
        """The version of a room that is being joined or knocked on, as the server said that lets us in."""
        ours, theirs = self._mine.get(room_id), self._theirs.get(room_id)
        if ours is not None:
            return ours.version
        return None if theirs is None else theirs.version

    def heard(self, payload: str) -> None:
        """A notification, our own too."""
        message = orjson.loads(payload)
        origin = message["origin"]
        if origin == self._origin:
            return
        if "joins" in message:
            self._begin(message["joins"], origin, ROOM_VERSIONS.get(message.get("version", "")))
        elif "ended" in message:
            self._end(message["ended"], origin)
        elif self._mine:
            self._say_all()

    def _under_way_elsewhere(self, room_id: str) -> Deferred[None] | None:
        if room_id in self._theirs:
            return self._ended(room_id)
        unsure = self._sure_at - self._scheduler.seconds()
        return Deferred.fromCoroutine(self._once_sure(room_id, unsure)) if unsure > 0 else None

    async def _once_sure(self, room_id: str, seconds: float) -> None:
        await deferLater(self._scheduler, seconds)
        if room_id in self._theirs:
            await self._ended(room_id)

    def _ended(self, room_id: str) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self._theirs[room_id].waiting.append(done)
        return done

    def _begin(self, room_id: str, origin: str, version: RoomVersion | None) -> None:
        room = self._theirs.setdefault(room_id, _Room())
        room.version = version
        self._theirs.move_to_end(room_id)
        _let_go(room, origin)
        room.lasting[origin] = self._scheduler.callLater(LASTS, self._end, room_id, origin)
        if len(self._theirs) > MOST_ROOMS:
            self._forget(next(iter(self._theirs)))

    def _end(self, room_id: str, origin: str) -> None:
        room = self._theirs.get(room_id)
        if room is None:
            return
        _let_go(room, origin)
        if not room.lasting:
            self._forget(room_id)

    def _forget(self, room_id: str) -> None:
        room = self._theirs.pop(room_id)
        for origin in tuple(room.lasting):
            _let_go(room, origin)
        _fire(room.waiting)


def _let_go(room: _Room, origin: str) -> None:
    lasting = room.lasting.pop(origin, None)
    if lasting is not None and lasting.active():
        lasting.cancel()


def _fire(waiting: list[Deferred[None]]) -> None:
    for done in waiting:
        if not done.called:
            done.callback(None)
