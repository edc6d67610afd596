# SPDX-License-Identifier: Apache-2.0
"""Rooms in memory brought up to date by reading what other processes wrote: many in a query, shared by all who ask.

Whoever asks for a room that is being read anyway waits for that. What somebody here waits for is read unasked
(`expect`, `begin`), and those are woken when it is in memory. Owns who reads which room when, not the rooms: how they
go on, and what they weigh, is their cache's (`cache.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set

from prometheus_client import Counter
from twisted.internet.defer import Deferred

from homeserver.events import RoomEvent
from homeserver.needs import Protocol
from homeserver.rooms.engine.following import Followed, follow
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.room import Room
from storage.events import StoredEvent
from storage.rooms import NewsOfRoom, RoomStore

logger = logging.getLogger(__name__)

_FOLLOWED = Counter("lares_rooms_followed", "Rooms brought up to date by what another process had written")
_RELOADED = Counter("lares_rooms_reloaded", "Rooms in memory that were loaded again as a whole")

MOST_FOLLOWED = 100
"""Rooms brought up to date in one query."""


class Listening(Protocol):
    """Users of this process who wait for news."""

    @property
    def users(self) -> Set[str]: ...

    def wake(self, users: Iterable[str]) -> None: ...


class _Refresh:
    """Rooms that are being brought up to date, and who waits for that."""

    def __init__(self, rooms: Iterable[Room]) -> None:
        self.rooms = {room.key: room for room in rooms}
        self.begun = {room.key: (room.beyond, room.suspected) for room in self.rooms.values()}
        self.waiting: list[Deferred[None]] = []

    def covers(self, room: Room) -> bool:
        """Whether all that is known to have happened to the room will be found."""
        return self.begun.get(room.key) == (room.beyond, room.suspected)


class Refreshing:
    """One per process, of its `RoomCache`."""

    def __init__(
        self,
        *,
        store: RoomStore,
        member_events: MemberEvents,
        held: Mapping[int, Room],
        take: Callable[[Room, Followed, Mapping[str, StoredEvent]], None],
        load: Callable[[Sequence[str], Sequence[int]], Awaitable[object]],
        listening: Listening | None,
    ) -> None:
        """`held`: the rooms in memory by key, as they come and go. `take` has a room go on, given what the redactions
        among its news have struck; `load` loads rooms as a whole, by id and by key."""
        self._store = store
        self._member_events = member_events
        self._held = held
        self._take = take
        self._load = load
        self._listening = listening
        self._under_way: dict[int, _Refresh] = {}
        self.awaited: dict[int, None] = {}
        """Rooms that another process wrote and somebody here waits for."""
        self._to_wake: set[str] = set()
        self._following = False

    def expect(self, room: Room, users: Iterable[str]) -> None:
        """Wake these once the room is up to date; `begin` reads what is expected."""
        self.awaited[room.key] = None
        self._to_wake.update(users)

    def begin(self) -> None:
        """Read what is expected, unless that is under way."""
        if not self._following and self._listening is not None:
            self._following = True
            Deferred.fromCoroutine(self._follow_awaited(self._listening))

    async def refresh(self, wanted: Mapping[int, Room]) -> None:
        """Bring rooms up to date, together with whoever asked for the same, and with those that are awaited."""
        refreshes: set[_Refresh] = set()
        mine: list[Room] = []
        for key, room in wanted.items():
            under_way = self._under_way.get(key)
            if under_way is not None and under_way.covers(room):
                refreshes.add(under_way)
            else:
                mine.append(room)
        if mine:
            for key in tuple(self.awaited):
                if len(mine) >= MOST_FOLLOWED:
                    break
                awaited = self._held.get(key)
                if awaited is not None and awaited.stale and not (key in wanted or key in self._under_way):
                    mine.append(awaited)
                del self.awaited[key]
            refresh = _Refresh(mine)
            self._under_way.update(dict.fromkeys(refresh.rooms, refresh))
            refreshes.add(refresh)
        waits: list[Deferred[None]] = []
        for each in refreshes:
            done: Deferred[None] = Deferred()
            each.waiting.append(done)
            waits.append(done)
        if mine:
            # By itself: who began it may go away, those who wait for it as well must not notice.
            Deferred.fromCoroutine(self._run(refresh))
        for done in waits:
            await done

    async def _run(self, refresh: _Refresh) -> None:
        failure: Exception | None = None
        try:
            await self._bring_up(refresh)
        except Exception as error:
            failure = error
        finally:
            for key in refresh.rooms:
                if self._under_way.get(key) is refresh:
                    del self._under_way[key]
        for done in refresh.waiting:
            if not done.called:
                if failure is None:
                    done.callback(None)
                else:
                    done.errback(failure)

    async def _bring_up(self, refresh: _Refresh) -> None:
        whole = [key for key, room in refresh.rooms.items() if room.in_doubt]
        positions = [
            (key, room.head.position) for key, room in refresh.rooms.items() if room.doubted <= room.cleared
        ]
        if positions:
            news = await self._store.since(positions)
            targets = await self._struck(refresh, news)
            for each in news:
                room = refresh.rooms[each.room]
                followed = follow(room.head, each)
                if followed is None:
                    whole.append(each.room)
                else:
                    room.cleared = max(room.cleared, refresh.begun[each.room][1])
                    _FOLLOWED.inc(followed.head is not room.head)
                    self._take(room, followed, targets)
        if whole:
            for key in whole:
                self._member_events.drop(key)
            _RELOADED.inc(len(whole))
            await self._load((), whole)

    async def _struck(self, refresh: _Refresh, news: Iterable[NewsOfRoom]) -> dict[str, StoredEvent]:
        """What the redactions among the news have struck, by the id of the redaction."""
        targets: dict[str, str] = {}
        for each in news:
            room = refresh.rooms[each.room]
            for stored in each.events or ():
                if stored.type == "m.room.redaction":
                    event = RoomEvent(stored, room.room_id, room.head.version).event
                    if event.redacts is not None:
                        targets[stored.event_id] = event.redacts
        if not targets:
            return {}
        struck = await self._store.struck(list(targets.values()), list(targets))
        return {stored.redacted_by: stored for stored in struck if stored.redacted_by is not None}

    async def _follow_awaited(self, listening: Listening) -> None:
        """Bring up to date what somebody waits for, a query for all that was written while the one before ran."""
        try:
            # Who asked for another room may have taken along those that are awaited.
            while self.awaited or self._to_wake:
                keys = [*self.awaited][:MOST_FOLLOWED]
                users, self._to_wake = self._to_wake, set()
                if len(keys) < len(self.awaited):
                    self._to_wake |= users  # some of them wait for rooms of the next round
                for key in keys:
                    del self.awaited[key]
                held = {key: room for key in keys if (room := self._held.get(key)) is not None}
                try:
                    await self.refresh({key: room for key, room in held.items() if room.stale})
                except Exception:
                    logger.exception(
                        "rooms that were written elsewhere could not be read; who asks reads them"
                    )
                listening.wake(users)
        finally:
            self._following = False
