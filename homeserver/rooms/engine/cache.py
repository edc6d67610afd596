# SPDX-License-Identifier: Apache-2.0
"""Rooms in memory: loaded when asked for, many in one query, kept within a budget, told when they are out of date.

A `Room` is the cell through which the newest head is read, with the newest events in their order. Heads only move
forward: of two candidates the one with the greater compare-and-swap counter stays.

What another process wrote is taken from its notification where that says it (`news.py`), without a query: at once if
somebody here waits for it, else when somebody asks.
Else it is read up, not loaded again (`refreshing.py`, `following.py`): those who wait are woken when it is in memory,
where they find it as they find what is written here.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic

from prometheus_client import Counter, Gauge

from homeserver.events import RoomEvent
from homeserver.protocol.errors import UnsupportedRoomVersionError
from homeserver.rooms.engine.copies import EventCopies
from homeserver.rooms.engine.following import Followed, follow
from homeserver.rooms.engine.head import RoomHead, concerned
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.news import Told, read
from homeserver.rooms.engine.refreshing import Listening, Refreshing
from homeserver.rooms.engine.room import Room
from homeserver.stream.changes import Change
from storage.events import StoredEvent
from storage.rooms import LoadedRoom, RoomStore

logger = logging.getLogger(__name__)

_ROOMS = Gauge("lares_rooms_in_memory", "Rooms held in memory")
_BYTES = Gauge("lares_rooms_memory_bytes", "About how much memory those rooms take")

_CARRIED = Counter("lares_rooms_carried", "Rooms brought up to date by the notification itself")

MOST_TOLD = 32
"""Commits to a room whose news are kept until somebody asks for it; beyond that they are left to be read."""


class RoomCache:
    """One per process. Subscribes to the stream for what other processes write."""

    def __init__(
        self, store: RoomStore, member_events: MemberEvents, budget: int, listening: Listening | None = None
    ) -> None:
        """`listening`: who is woken for what other processes write; without, all members are named at once."""
        self._store = store
        self._listening = listening
        self.has_rivals = False
        """Whether another process ever wrote a room in memory."""
        self._member_events = member_events
        self.copies = EventCopies(member_events)
        self._budget = budget
        self._weight = 0
        self._by_id: OrderedDict[str, Room] = OrderedDict()
        self._by_key: dict[int, Room] = {}
        self._refreshing = Refreshing(
            store=store,
            member_events=member_events,
            held=self._by_key,
            take=self._follow,
            load=self._load_whole,
            listening=listening,
        )
        self._loads = 0
        """Loads on their way, and new rooms."""
        self._moved: dict[int, int] = {}
        """What to set `beyond` to when they arrive: they may have read the room as it was before."""
        self._tell_remote: Callable[[Sequence[str]], object] = lambda _users: None
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
            await self._refreshing.refresh(held)
            gone = [key for key, room in held.items() if self._by_key.get(key) is not room]
            rooms.extend(room for key, room in held.items() if key not in gone)
            if gone:  # they went out of memory meanwhile
                rooms.extend(await self._load_whole((), gone))
        return rooms

    def _told_all(self, room: Room) -> bool:
        """Take what other processes have told of the room; whether it is up to date then."""
        if not room.told or room.in_doubt:
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
                self.copies.placed(room, entry)
            if is_held and stored.type == "m.room.member" and not stored.flags:
                self._member_events.put(entry)
            target = struck.get(stored.event_id)
            if target is not None:
                self.copies.struck(room, target, target.pdu, entry)
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
            self._load_ended()
        return rooms

    def _load_ended(self) -> None:
        self._loads -= 1
        if not self._loads:
            self._moved.clear()

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

    @contextmanager
    def adding(self) -> Iterator[Callable[[RoomHead, Sequence[RoomEvent]], Room]]:
        """While a new room is being committed here. Gives what takes it in when it stands.

        Another process may have written it by then, and that have been heard before the answer to our commit. Such news
        are kept as for a room that is being loaded.
        """
        holes = self._holes

        def add(head: RoomHead, events: Sequence[RoomEvent]) -> Room:
            room = self._add(head, events)
            room.beyond = max(room.beyond, self._moved.get(room.key, 0))
            if holes != self._holes:
                room.doubt()
            return room

        self._loads += 1
        try:
            yield add
        finally:
            self._load_ended()

    def _add(self, head: RoomHead, events: Sequence[RoomEvent]) -> Room:
        room = self._by_id.get(head.room_id)
        if room is None:
            room = Room(head)
            room.recent_floor = 0
            room.remember(events)
            self._by_id[head.room_id] = room
            self._by_key[head.room] = room
        else:
            room.advance(head, events)
        self._weigh(room)
        return room

    def on_remote(self, tell: Callable[[Sequence[str]], object]) -> None:
        """Have told, before it is shown, which users of other servers came to rooms or left them by what is written
        here. What other processes write a `Change` says."""
        self._tell_remote = tell

    def advanced(
        self, room: Room, head: RoomHead, events: Sequence[RoomEvent], remote: Sequence[str] = ()
    ) -> None:
        """A commit of ours landed in the room: its head moves and its new events are remembered.

        `remote` are the users of other servers who came or left by it.
        """
        if remote:
            self._tell_remote(remote)
        room.advance(head, events)
        for entry in events:
            if entry.stored.type == "m.room.member":
                self._member_events.put(entry)
        if self._by_id.get(room.room_id) is not room:
            return  # it went out of memory meanwhile; what took its place, if anything, is out of date
        self._weigh(room)

    def history_landed(self, room: Room, head: RoomHead) -> None:
        """A commit of ours placed events below the newest; nobody is told of it here."""
        room.advance(head, ())
        held = self._by_id.get(room.room_id)
        if held is not room:  # what took its place may have been read before, and so may what is being loaded
            self._holes += 1
            if held is not None:
                held.doubt()

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
                held.written_after(change.before, change.users if change.foreign else ())
            if change.foreign:
                wake.update(self._written_elsewhere(change, key, held))
        if self._refreshing.awaited:
            self._refreshing.begin()
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
        users = self._listening.users
        waking = {*concerned(held.head, users), *held.may_have(users)}
        if held.in_doubt:
            waking |= users
        if not waking or not held.stale or self._told_all(held) or self._by_key.get(key) is not held:
            return waking
        self._refreshing.expect(held, waking)
        return ()

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
            if evicted.stale:  # what was redacted there meanwhile would never be struck
                self._member_events.drop(evicted.key)
            self._weight -= evicted.weight


def _weight_of(told: Iterable[Told]) -> int:
    return sum(each.weight for each in told)
