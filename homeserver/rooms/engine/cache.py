# SPDX-License-Identifier: Apache-2.0
"""Rooms in memory: loaded when asked for, many in one query, kept within a budget, told when they are out of date.

A `Room` is the cell through which the newest head is read, with the newest events in their order. Heads only move
forward: of two candidates the one with the greater compare-and-swap counter stays.

What another process wrote is taken from its notification where that says it (`news.py`), without a query: at once if
somebody here waits for it, else when somebody asks.
Else it is read up, not loaded again (`following.py`): the new events of all rooms where somebody waits in one query,
which everybody who asks meanwhile shares. Those who wait are woken when it is in memory, where they find it as they
find what is written here.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence, Set
from time import monotonic
from typing import Protocol

from prometheus_client import Counter, Gauge
from twisted.internet.defer import Deferred

from homeserver.events import RoomEvent
from homeserver.protocol.errors import UnsupportedRoomVersionError
from homeserver.rooms.engine.following import Followed, follow
from homeserver.rooms.engine.head import RoomHead, concerned
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.news import Told, read
from homeserver.rooms.engine.room import RECENT_EVENTS, Room
from homeserver.stream.changes import Change
from storage.events import StoredEvent
from storage.rooms import LoadedRoom, NewsOfRoom, RoomStore

logger = logging.getLogger(__name__)

_ROOMS = Gauge("lares_rooms_in_memory", "Rooms held in memory")
_BYTES = Gauge("lares_rooms_memory_bytes", "About how much memory those rooms take")

_FOLLOWED = Counter("lares_rooms_followed", "Rooms brought up to date by what another process had written")
_CARRIED = Counter("lares_rooms_carried", "Rooms brought up to date by the notification itself")
_RELOADED = Counter("lares_rooms_reloaded", "Rooms in memory that were loaded again as a whole")

MOST_FOLLOWED = 100
"""Rooms brought up to date in one query."""
MOST_TOLD = 32
"""Commits to a room whose news are kept until somebody asks for it; beyond that they are left to be read."""


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


class RoomCache:
    """One per process. Subscribes to the stream for what other processes write."""

    def __init__(
        self, store: RoomStore, member_events: MemberEvents, budget: int, listening: Listening | None = None
    ) -> None:
        """`listening`: who is woken for what other processes write; without, all members are named at once."""
        self._store = store
        self._listening = listening
        self._refreshing: dict[int, _Refresh] = {}
        self._awaited: dict[int, None] = {}
        """Rooms that another process wrote and somebody here waits for."""
        self._to_wake: set[str] = set()
        self.has_rivals = False
        """Whether another process ever wrote a room in memory."""
        self._following = False
        self._member_events = member_events
        self._budget = budget
        self._weight = 0
        self._by_id: OrderedDict[str, Room] = OrderedDict()
        self._by_key: dict[int, Room] = {}
        self._loads = 0
        """Loads on their way."""
        self._moved: dict[int, int] = {}
        """What to set `beyond` to when they arrive: they may have read the room as it was before."""
        self._holes = 0
        """How often it was not told which rooms had moved."""
        _ROOMS.set_function(lambda: len(self._by_id))
        _BYTES.set_function(lambda: self._weight + member_events.weight)

    @property
    def weight(self) -> int:
        """About how many bytes the rooms take."""
        return self._weight

    def held(self, room_id: str) -> Room | None:
        """The room, if it is in memory, be it out of date."""
        return self._by_id.get(room_id)

    def peek(self, room_id: str) -> Room | None:
        """The room, if it is in memory and not known to be out of date."""
        room = self._by_id.get(room_id)
        if room is None or (room.stale and not self._told_all(room)):
            return None
        self._by_id.move_to_end(room_id)
        return room

    def held_key(self, key: int) -> Room | None:
        """As `held`, by key."""
        return self._by_key.get(key)

    def peek_key(self, key: int) -> Room | None:
        """As `peek`, by key."""
        room = self._by_key.get(key)
        return None if room is None or (room.stale and not self._told_all(room)) else room

    async def get(self, room_id: str) -> Room | None:
        """The room at its newest; None if it is unknown here (or of a version this server does not speak)."""
        room = self.peek(room_id)
        if room is not None:
            return room
        return (await self.get_many(room_ids=(room_id,))).get(room_id)

    async def get_many(self, *, room_ids: Sequence[str] = (), keys: Sequence[int] = ()) -> dict[str, Room]:
        """Rooms by id, those not in memory loaded in one query; unknown ones are absent."""
        found: dict[str, Room] = {}
        missing_ids = []
        for room_id in room_ids:
            room = self.peek(room_id)
            if room is None:
                missing_ids.append(room_id)
            else:
                found[room_id] = room
        missing_keys = []
        for key in keys:
            room = self.peek_key(key)
            if room is None:
                missing_keys.append(key)
            else:
                found[room.room_id] = room
        if missing_ids or missing_keys:
            for room in await self._load(missing_ids, missing_keys):
                found[room.room_id] = room
        return found

    async def _load(self, room_ids: Sequence[str], keys: Sequence[int]) -> list[Room]:
        """Those in memory are brought up to date, the others loaded."""
        held: dict[int, Room] = {}
        new_ids, new_keys = [], []
        for room_id in room_ids:
            room = self._by_id.get(room_id)
            if room is None:
                new_ids.append(room_id)
            else:
                held[room.key] = room
        for key in keys:
            room = self._by_key.get(key)
            if room is None:
                new_keys.append(key)
            else:
                held[key] = room
        rooms = await self._load_whole(new_ids, new_keys) if new_ids or new_keys else []
        if held:
            await self._refresh(held)
            gone = [key for key, room in held.items() if self._by_key.get(key) is not room]
            rooms.extend(room for key, room in held.items() if key not in gone)
            if gone:  # they went out of memory meanwhile
                rooms.extend(await self._load_whole((), gone))
        return rooms

    async def _refresh(self, wanted: Mapping[int, Room]) -> None:
        """Bring rooms up to date, together with whoever asked for the same, and with those that are awaited."""
        refreshes: set[_Refresh] = set()
        mine: list[Room] = []
        for key, room in wanted.items():
            under_way = self._refreshing.get(key)
            if under_way is not None and under_way.covers(room):
                refreshes.add(under_way)
            else:
                mine.append(room)
        if mine:
            for key in tuple(self._awaited):
                if len(mine) >= MOST_FOLLOWED:
                    break
                awaited = self._by_key.get(key)
                if awaited is not None and awaited.stale and not (key in wanted or key in self._refreshing):
                    mine.append(awaited)
                del self._awaited[key]
            refresh = _Refresh(mine)
            self._refreshing.update(dict.fromkeys(refresh.rooms, refresh))
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
                if self._refreshing.get(key) is refresh:
                    del self._refreshing[key]
        for done in refresh.waiting:
            if not done.called:
                if failure is None:
                    done.callback(None)
                else:
                    done.errback(failure)

    async def _bring_up(self, refresh: _Refresh) -> None:
        whole = [key for key, room in refresh.rooms.items() if room.doubted > room.cleared]
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
                    self._follow(room, followed, targets)
        if whole:
            for key in whole:
                self._member_events.drop(key)
            _RELOADED.inc(len(whole))
            await self._load_whole((), whole)

    def _told_all(self, room: Room) -> bool:
        """Take what other processes have told of the room; whether it is up to date then."""
        if not room.told or room.doubted > room.cleared:
            return False
        told, room.told = room.told, []
        try:
            news = read(told, room.head)
        except (ValueError, TypeError, LookupError):
            logger.exception("what another process told of %s cannot be read", room.room_id)
            room.doubt()
            news = None
        followed = None if news is None else follow(room.head, news)
        head = room.head if followed is None else followed.head
        # What does not go on from here may do so once what lies between is read.
        room.told.extend(each for each in told if each.expected > head.head)
        if followed is not None:
            self._follow(room, followed, {})
            _CARRIED.inc()
        elif self._by_id.get(room.room_id) is room:
            self._grow(room, _weight_of(room.told) - _weight_of(told))
        return not room.stale

    def _keep(self, room: Room, news: Told) -> None:
        """Until somebody asks for the room; nobody did, so it is no later than it was to go out of memory."""
        if len(room.told) >= MOST_TOLD:
            self._grow(room, -_weight_of(room.told))
            room.told.clear()
        room.told.append(news)
        self._grow(room, news.weight)
        self._shrink()

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

    def _follow(self, room: Room, followed: Followed, struck: Mapping[str, StoredEvent]) -> None:
        """As if this process had written it."""
        if followed.head is room.head:
            return
        # Of a room that went out of memory meanwhile it is not heard what is redacted.
        is_held = self._by_id.get(room.room_id) is room
        known = room.head.next_ordinal
        shown = [entry for entry in followed.events if not entry.stored.flags]
        room.follow(followed.head, shown)
        for entry in followed.events:
            stored = entry.stored
            if stored.flags and stored.outbound:
                room.unshown = max(room.unshown, stored.position)
            if stored.ordinal < known:
                self.placed(room, entry)
            if is_held and stored.type == "m.room.member" and not stored.flags:
                self._member_events.put(entry)
            target = struck.get(stored.event_id)
            if target is not None:
                self.struck(room, target, target.pdu, entry)
        if is_held:
            self._weigh(room)

    async def _load_whole(self, room_ids: Sequence[str], keys: Sequence[int]) -> list[Room]:
        held = [room for room in (self._by_id.get(room_id) for room_id in room_ids) if room is not None]
        held.extend(room for room in (self._by_key.get(key) for key in keys) if room is not None)
        suspicions = {room: room.suspected for room in held}  # not by key: it may go out of memory meanwhile
        holes = self._holes
        self._loads += 1
        try:
            loaded = await self._store.load(rooms=keys, room_ids=room_ids)
            rooms = []
            for each in loaded:
                room = self._install(each)
                if room is not None:
                    room.cleared = max(room.cleared, suspicions.get(room, 0))
                    if holes != self._holes and room not in suspicions:
                        room.doubt()
                    rooms.append(room)
        finally:
            self._loads -= 1
            if not self._loads:
                self._moved.clear()
        return rooms

    def _install(self, loaded: LoadedRoom) -> Room | None:
        try:
            head = RoomHead.of(loaded)
        except UnsupportedRoomVersionError:
            return None
        room = self._by_id.get(head.room_id)
        if room is None:
            room = Room(head)
            self._by_id[head.room_id] = room
            self._by_key[head.room] = room
        else:
            room.replace(head)
        room.beyond = max(room.beyond, self._moved.get(room.key, 0))
        self._weigh(room)
        return room

    def add(self, head: RoomHead, events: Sequence[RoomEvent]) -> Room:
        """A room that was just created here."""
        room = self._by_id.get(head.room_id)
        if room is None:
            room = Room(head)
            room.recent_floor = 0
            room.recent.extend(events)
            while len(room.recent) > RECENT_EVENTS:
                room.recent_floor = room.recent.popleft().stored.position
            self._by_id[head.room_id] = room
            self._by_key[head.room] = room
        else:
            room.advance(head, events)
        self._weigh(room)
        return room

    def advanced(self, room: Room, head: RoomHead, events: Sequence[RoomEvent]) -> None:
        """A commit of ours landed in the room: its head moves and its new events are remembered."""
        room.advance(head, events)
        for entry in events:
            if entry.stored.type == "m.room.member":
                self._member_events.put(entry)
        if self._by_id.get(room.room_id) is not room:
            return  # it went out of memory meanwhile; what took its place, if anything, is out of date
        self._grow(room, sum(entry.weight for entry in events))
        if room.weight > 4096 + 2 * len(room.recent) * 4096 + room.head.weight or self._weight > self._budget:
            self._weigh(room)

    def placed(self, room: Room, entry: RoomEvent) -> None:
        """An event whose place was unknown has one now; memory may hold it as it was."""
        stored = entry.stored
        holders = [self._member_events.peek(room.key, stored.ordinal)]
        if stored.state_key is not None:
            holders.append(room.head.state.get((stored.type, stored.state_key)))
        for holder in holders:
            if holder is not None and holder is not entry and holder.stored.ordinal == stored.ordinal:
                holder.stored = stored
                holder.aside = None

    def struck(self, room: Room, target: StoredEvent, pdu: str, redaction: RoomEvent) -> None:
        """A redaction of ours landed: whatever holds its target in memory shows the redacted form from now on."""
        holders = [entry for entry in room.recent if entry.stored.ordinal == target.ordinal]
        member = self._member_events.redacted(room.key, target.ordinal)
        if member is not None:
            holders.append(member)
        if target.state_key is not None:
            current = room.head.state.get((target.type, target.state_key))
            if current is not None and current.stored.ordinal == target.ordinal:
                holders.append(current)
                room.head.forget_derived()
        for entry in holders:
            if entry.stored.redacted_by is None:
                entry.redact(pdu, redaction.stored)
        self._strike_copies(room, target, pdu)

    def _strike_copies(self, room: Room, target: StoredEvent, pdu: str) -> None:
        """What replaced a struck event, and what a struck redaction had struck, carry its content along."""
        if target.state_key is not None:
            carriers = [*room.recent, room.head.state.get((target.type, target.state_key))]
            member = room.head.members.get(target.state_key)
            if target.type == "m.room.member" and member is not None:
                carriers.append(self._member_events.redacted(room.key, member.ordinal))
            for entry in carriers:
                if entry is not None and entry.stored.replaces == target.ordinal:
                    entry.replaced_was_redacted(pdu)
        elif target.type == "m.room.redaction":
            for entry in (*room.recent, *room.head.state.values()):
                if entry.stored.redacted_by == target.event_id:
                    entry.redaction_was_redacted(pdu)

    def mark_stale(self, room_id: str) -> None:
        """The room's head had moved elsewhere."""
        room = self._by_id.get(room_id)
        if room is not None:
            room.suspected += 1

    def changed(self, change: Change) -> Iterable[str]:
        """Rooms were written. Wake, if it was by another process, besides whom it named the members known here."""
        if change.unknown:
            self._holes += 1
            for room in self._by_id.values():
                room.doubt()
            return ()
        for key in change.lost:
            # Who lost the race must first hear of what it lost to. This process, which won, knows, and would win for
            # ever; so it leaves the other its turn (see `RoomWriter`).
            held = self._by_key.get(key)
            if held is not None and change.foreign:
                held.rival_lost_at = monotonic()
        wake: set[str] = set()
        if change.whole and not change.count and self._loads:
            self._holes += 1  # no position tells whether what is being loaded has it
        for key in change.rooms:
            if self._loads:
                self._moved[key] = max(change.before, self._moved.get(key, 0))
            held = self._by_key.get(key)
            if held is not None:
                # Of ours the head has moved already, unless the room went out of memory and came back meanwhile.
                held.beyond = max(held.beyond, change.before)
            if change.foreign:
                wake.update(self._written_elsewhere(change, key, held))
        if self._awaited and not self._following and self._listening is not None:
            self._following = True
            Deferred.fromCoroutine(self._follow_awaited(self._listening))
        return wake

    def _written_elsewhere(self, change: Change, key: int, held: Room | None) -> Iterable[str]:
        """Another process wrote the room; whom to wake at once."""
        # What a load as a whole found already is not followed, so nothing that it redacted is struck.
        if held is None or change.whole or change.before < held.read_at:
            self._member_events.drop(key)
        if held is None:
            return ()
        self.has_rivals = True
        if change.whole:
            held.doubt()
        lines = change.news.get(key)
        if lines is not None and held.stale:
            self._keep(held, Told(lines, change.before))
        held.rival_wrote(monotonic())
        if not change.count:
            return ()  # history, of which no client is told
        if self._listening is None:
            return held.head.joined_users()
        waking = concerned(held.head, self._listening.users)
        if not waking or not held.stale or self._told_all(held) or self._by_key.get(key) is not held:
            return waking
        # Those who wait are woken once it is up to date.
        self._awaited[held.key] = None
        self._to_wake.update(waking)
        return ()

    async def _follow_awaited(self, listening: Listening) -> None:
        """Bring up to date what somebody waits for, a query for all that was written while the one before ran."""
        try:
            # Who asked for another room may have taken along those that are awaited.
            while self._awaited or self._to_wake:
                keys = [*self._awaited][:MOST_FOLLOWED]
                users, self._to_wake = self._to_wake, set()
                if len(keys) < len(self._awaited):
                    self._to_wake |= users  # some of them wait for rooms of the next round
                for key in keys:
                    del self._awaited[key]
                held = {key: room for key in keys if (room := self._by_key.get(key)) is not None}
                try:
                    await self._refresh({key: room for key, room in held.items() if room.stale})
                except Exception:
                    logger.exception(
                        "rooms that were written elsewhere could not be read; who asks reads them"
                    )
                listening.wake(users)
        finally:
            self._following = False

    def _weigh(self, room: Room) -> None:
        self._grow(room, room.measure() - room.weight)
        self._by_id.move_to_end(room.room_id)
        self._shrink()

    def _grow(self, room: Room, weight: int) -> None:
        room.weight += weight
        self._weight += weight

    def _shrink(self) -> None:
        while self._weight > self._budget and len(self._by_id) > 1:
            _, evicted = self._by_id.popitem(last=False)
            self._by_key.pop(evicted.key, None)
            self._awaited.pop(evicted.key, None)
            if evicted.stale:  # what was redacted there meanwhile would never be struck
                self._member_events.drop(evicted.key)
            self._weight -= evicted.weight


def _weight_of(told: Iterable[Told]) -> int:
    return sum(each.weight for each in told)
