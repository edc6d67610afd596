# SPDX-License-Identifier: Apache-2.0
"""Noticing rooms with too many loose ends, and having them tied together after a while.

Owns when: some time after this process wrote the room (who speaks meanwhile ties them anyway), one room after the
other, and no room often. How is `dummies`'.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from homeserver.errors import MatrixError
from homeserver.needs import Protocol
from homeserver.rooms.engine import RoomCache, RoomEngine
from homeserver.rooms.intake.dummies import MOST_EXTREMITIES, send_dummy
from homeserver.stream.changes import Change

logger = logging.getLogger(__name__)

DELAY = 10.0
"""Seconds from noticing to doing."""
PAUSE = 60.0
"""Seconds until a room is looked at again."""
LONG_PAUSE = 3600.0
"""The same where nothing could be done: nobody of ours may send there."""
MOST_ROOMS = 10_000
MOST_MERGES = 20
"""Dummy events in a row, each of which ties twenty ends together."""


class Scheduler(Protocol):
    """The reactor's part that is needed here."""

    def callLater(self, delay: float, call: Callable[..., object], /, *args: object) -> Any: ...  # noqa: N802

    def seconds(self) -> float: ...


class LooseEnds:
    """One per process; subscribes to the stream after the rooms' cache, and is stopped before the stream."""

    def __init__(self, *, engine: RoomEngine, cache: RoomCache, scheduler: Scheduler) -> None:
        self._engine = engine
        self._cache = cache
        self._scheduler = scheduler
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._not_before: OrderedDict[int, float] = OrderedDict()
        self._timer: Any = None
        self._running: Deferred[None] | None = None

    def changed(self, change: Change) -> Iterable[str]:
        """A commit. What another process wrote is looked after there."""
        if change.foreign or change.unknown:
            return ()
        for key in change.rooms:
            room = self._cache.peek_key(key)
            if room is not None and len(room.head.extremities) > MOST_EXTREMITIES:
                self._notice(key, room.room_id)
        return ()

    async def stop(self) -> None:
        """What was noticed is noticed again when the room is written next."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            try:
                await running
            except CancelledError:
                return

    def _notice(self, key: int, room_id: str) -> None:
        now = self._scheduler.seconds()
        if self._not_before.get(key, now) > now or len(self._waiting) >= MOST_ROOMS:
            return
        self._rest(key, PAUSE)
        self._waiting[room_id] = None
        if self._timer is None and self._running is None:
            self._timer = self._scheduler.callLater(DELAY, self._begin)

    def _rest(self, key: int, seconds: float) -> None:
        self._not_before[key] = self._scheduler.seconds() + seconds
        self._not_before.move_to_end(key)
        while len(self._not_before) > MOST_ROOMS:
            self._not_before.popitem(last=False)

    def _begin(self) -> None:
        self._timer = None
        running = Deferred.fromCoroutine(self._work())
        if not running.called:
            self._running = running

    async def _work(self) -> None:
        rooms, self._waiting = list(self._waiting), OrderedDict()
        for room_id in rooms:
            try:
                await self._merge(room_id)
            except CancelledError:
                raise
            except MatrixError as error:  # the room's policy server, say, does not want it
                logger.info("the ends of %s stay as they are: %s", room_id, error)
            except Exception:
                logger.exception("the ends of %s could not be tied together", room_id)
        self._running = None
        if self._waiting:
            self._timer = self._scheduler.callLater(DELAY, self._begin)

    async def _merge(self, room_id: str) -> None:
        for _ in range(MOST_MERGES):
            if not await send_dummy(self._engine, room_id):
                break
        room = await self._cache.get(room_id)
        if room is not None and len(room.head.extremities) > MOST_EXTREMITIES:
            self._rest(room.key, LONG_PAUSE)
