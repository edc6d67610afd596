# SPDX-License-Identifier: Apache-2.0
"""The visibility gate: every read of a room on behalf of a user goes through `RoomAccess`.

Owns who may read a room at all, as of when, and which of its events. A room that the user may not see is refused in
the same words whether it exists or not. Client-server API, "Room History Visibility".

Membership at an event is read off the user's intervals by stream position: the membership before the event at p is
the interval with since < p ≤ until. Events of the past that came late (positions up to 0) tell nothing by that: of them
nobody sees what is deeper than the end of their last stay, and who was in the room just then is read off the state
before them where the room's history is open to no others (`Sight.learn`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence

import orjson
from msgspec import Struct
from pyroaring import BitMap

from homeserver.errors import Forbidden, NotFound
from homeserver.events import RoomEvent
from homeserver.protocol.membership import Membership
from homeserver.protocol.visibility import HistoryVisibility, may_see_event
from homeserver.rooms.engine import Room, RoomCache
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.snapshots import state_at
from homeserver.rooms.user_rooms import UserRooms
from storage.events import EventStore, StoredEvent
from storage.memberships import Interval, MembershipStore
from storage.rooms import Member
from storage.state import StateStore

MEMBER = "m.room.member"

LARGEST_LOAD = 1000
"""Rows of one query: to take up more at once would keep the reactor from everybody else for tens of milliseconds."""

BUDGET = 10_000_000
"""Bytes of users' pasts in rooms that are remembered, unless told otherwise."""


class Sight:
    """What one user may see of one room, decided by their membership intervals; synchronous and cheap."""

    __slots__ = ("_intervals", "_left_depth", "_past", "user_id")

    def __init__(self, user_id: str, intervals: Sequence[Interval], left_depth: int = 0) -> None:
        """`left_depth` is the depth of the event that ended the user's last stay, where history is to be read."""
        self.user_id = user_id
        self._intervals = intervals
        self._left_depth = left_depth
        self._past: dict[int, str | None] = {}

    @property
    def left_at(self) -> int | None:
        """The position of the event that ended the user's last stay; None if they never were joined, still are, or
        have forgotten the room."""
        for interval in reversed(self._intervals):
            if interval.membership == "join" and not interval.forgotten:
                return interval.until
        return None

    def membership_before(self, position: int) -> str | None:
        """The user's membership in the state before the event at a position."""
        for interval in self._intervals:
            if interval.since < position and (interval.until is None or position <= interval.until):
                return interval.membership
        return None

    def membership_at(self, position: int) -> str | None:
        """The user's membership once the event at a position had happened."""
        for interval in self._intervals:
            if interval.since <= position and (interval.until is None or position < interval.until):
                return interval.membership
        return None

    def membership_throughout(self, first: int, last: int) -> str | None:
        """The user's membership from the event at one position to that at another; None if it was not one."""
        for interval in self._intervals:
            if interval.since <= first and (interval.until is None or last < interval.until):
                return interval.membership
        return None

    def sees_all_above(self, position: int) -> bool:
        """Whether the user may see whatever comes after a position, since they are in the room ever since."""
        last = self._intervals[-1] if self._intervals else None
        return last is not None and last.membership == "join" and last.since <= position

    def asks_past(self, stored: StoredEvent) -> bool:
        """Whether it must learn the membership at an event before it can say of it whether the user may see it."""
        return (
            stored.position <= 0
            and stored.visibility in _MEMBERS_ONLY
            and stored.snapshot is not None
            and stored.snapshot not in self._past
            and bool(self._intervals)
        )

    def learn(self, snapshot: int, membership: str | None) -> None:
        """The user's membership in a state of the room."""
        self._past[snapshot] = membership

    def joined_after(self, position: int) -> bool:
        """Whether the user was joined at any time after the event at a position, now included."""
        return any(
            interval.membership == "join" and (interval.until is None or interval.until > position)
            for interval in self._intervals
        )

    def may_see(self, entry: RoomEvent) -> bool:
        """Whether the user may see the event."""
        return self.may_see_stored(entry.stored)

    def may_see_stored(self, stored: StoredEvent) -> bool:
        """The same, of a row."""
        if stored.position <= 0 and not self._reaches(stored):
            return False
        return self._may_see(stored.position, stored.visibility, stored, stored.pdu)

    def may_see_replaced(self, entry: RoomEvent) -> bool:
        """Whether the user may see the state event that this one replaced."""
        stored = entry.stored
        position, visibility = stored.replaced_position, stored.replaced_visibility
        if position is None or visibility is None or (position <= 0 and not self._reaches(stored)):
            return False
        return self._may_see(position, visibility, stored, stored.replaced_pdu)

    def _reaches(self, stored: StoredEvent) -> bool:
        """Whether an event of the past is of before the user left."""
        last = self._intervals[-1] if self._intervals else None
        if last is not None and last.membership == "join":
            return True
        return stored.depth < self._left_depth or stored.visibility == HistoryVisibility.WORLD_READABLE

    def _may_see(self, position: int, visibility: int, kind: StoredEvent, pdu: str | None) -> bool:
        """For an event of the same type and state key as `kind`."""
        last = self._intervals[-1] if self._intervals else None
        if last is not None and last.membership == "join" and last.since < position:
            return True
        own = kind.type == MEMBER and kind.state_key == self.user_id
        visibility_after = None
        if kind.type == "m.room.history_visibility" and kind.state_key == "" and pdu is not None:
            visibility_after = HistoryVisibility.from_content(orjson.loads(pdu)["content"])
        return may_see_event(
            visibility=HistoryVisibility(visibility),
            membership=_membership(self._membership_before(position, kind)),
            joined_later=self.joined_after(position),
            visibility_after=visibility_after,
            membership_after=_membership(self.membership_at(position)) if own else None,
        )

    def _membership_before(self, position: int, kind: StoredEvent) -> str | None:
        if position <= 0 and position == kind.position and kind.snapshot is not None:
            return self._past.get(kind.snapshot)
        return self.membership_before(position)


_MEMBERS_ONLY = frozenset((int(HistoryVisibility.INVITED), int(HistoryVisibility.JOINED)))


def _membership(name: str | None) -> Membership | None:
    return None if name is None else Membership(name)


class StateAccess(Struct, frozen=True):
    """A room whose state a user may read.

    `until` is None for one who sees the present (joined, or the room is world-readable); otherwise the position of
    the event that ended their membership, as of which they see its state.
    """

    room: Room
    user_id: str
    membership: str | None
    until: int | None

    @property
    def is_joined(self) -> bool:
        return self.membership == "join"


class RoomAccess(StateAccess, frozen=True):
    """A room that a user may read, and which of its events."""

    sight: Sight


class RoomGate:
    """Gives `RoomAccess`. One per process."""

    def __init__(
        self,
        *,
        cache: RoomCache,
        user_rooms: UserRooms,
        memberships: MembershipStore,
        events: EventStore,
        state: StateStore,
        member_events: MemberEvents,
        budget: int = BUDGET,
    ) -> None:
        """`budget`: about how many bytes of users' pasts in rooms to keep."""
        self._budget = budget
        self._weight = 0
        self._cache = cache
        self._user_rooms = user_rooms
        self._memberships = memberships
        self._events = events
        self._state = state
        self._member_events = member_events
        # (User, room) → the standing membership and all that led to it; least recently used first.
        self._known: OrderedDict[tuple[str, int], tuple[Member, Sequence[Interval]]] = OrderedDict()

    @property
    def weight(self) -> int:
        """About how many bytes of users' pasts it keeps."""
        return self._weight

    async def access_joined_room(self, user_id: str, room_id: str) -> Room:
        """The room, for what only its members may do. Raises Forbidden."""
        room = await self._cache.get(room_id)
        if room is None or not room.head.is_joined(user_id):
            raise Forbidden(f"User {user_id} not in room {room_id}")
        return room

    async def access_room(self, user_id: str, room_id: str) -> RoomAccess:
        """The room, for reading: members, former members, and anyone if it is world-readable. Raises Forbidden."""
        room = await self._cache.get(room_id)
        if room is None:
            raise _unseen(user_id, room_id)
        intervals = await self._intervals(user_id, room)
        sight = Sight(user_id, intervals)
        standing = intervals[-1] if intervals else None
        membership = None if standing is None else standing.membership
        if membership == "join":
            return RoomAccess(room, user_id, membership, None, sight)
        if room.head.oldest_position < 0 and sight.left_at is not None:
            sight = Sight(user_id, intervals, await self._depth_at(room, sight.left_at))
        if room.head.history_visibility is HistoryVisibility.WORLD_READABLE:
            return RoomAccess(room, user_id, membership, None, sight)
        if sight.left_at is None:
            raise _unseen(user_id, room_id)
        return RoomAccess(room, user_id, membership, sight.left_at, sight)

    async def _intervals(self, user_id: str, room: Room) -> Sequence[Interval]:
        """The user's past in the room. No query for one who is joined and has read it before, as long as they stay."""
        key, member = (user_id, room.key), room.head.members.get(user_id)
        if member is None or member.membership != "join":
            return (await self._memberships.intervals(user_id, (room.key,)))[room.key]
        known = self._known.get(key)
        if known is not None and known[0] == member:
            self._known.move_to_end(key)
            return known[1]
        intervals = (await self._memberships.intervals(user_id, (room.key,)))[room.key]
        last = intervals[-1] if intervals else None
        # Else the room has moved since its head was made.
        if (
            last is not None
            and last.until is None
            and Member(last.membership, last.ordinal, last.since) == member
        ):
            before = self._known.pop(key, None)
            self._known[key] = (member, intervals)
            self._weight += _weight_of(intervals) - (0 if before is None else _weight_of(before[1]))
            while self._weight > self._budget and len(self._known) > 1:
                _, (_, oldest) = self._known.popitem(last=False)
                self._weight -= _weight_of(oldest)
        return intervals

    async def _depth_at(self, room: Room, position: int) -> int:
        """The depth of the event at a position; 0 where none is shown there."""
        found = (await self._events.timelines([(room.key, position - 1, position)], 1))[room.key]
        return found[0].depth if found else 0

    async def access_state(self, user_id: str, room_id: str) -> StateAccess:
        """As `access_room`, for reading state only: whoever sees the present is let in without a query."""
        room = await self._cache.get(room_id)
        if room is None:
            raise _unseen(user_id, room_id)
        membership = room.head.membership(user_id)
        if membership == "join" or room.head.history_visibility is HistoryVisibility.WORLD_READABLE:
            return StateAccess(room, user_id, membership, None)
        return await self.access_room(user_id, room_id)

    async def sights(self, user_id: str, rooms: Sequence[int]) -> dict[int, Sight]:
        """What the user may see of each room, for filtering events of many rooms with one query."""
        intervals = await self._memberships.intervals(user_id, rooms)
        return {room: Sight(user_id, found) for room, found in intervals.items()}

    async def access_event(self, user_id: str, room_id: str, event_id: str) -> tuple[RoomAccess, RoomEvent]:
        """An event of the room that the user may see. Raises NotFound in all other cases, Forbidden for the room."""

        access = await self.access_room(user_id, room_id)
        stored = (await self._events.by_ids((event_id,))).get(event_id)
        if stored is None or stored.room != access.room.key or stored.flags:
            raise NotFound("Event not found")
        entry = self.in_memory(access.room, stored)
        if not access.sight.may_see(entry):
            raise NotFound("Event not found")
        return access, entry

    def in_memory(self, room: Room, stored: StoredEvent) -> RoomEvent:
        """The shared object of a stored event if it is in memory, else a new one."""
        return RoomEvent(stored, room.room_id, room.head.version)

    # State as the user sees it.

    async def state_of(self, access: StateAccess) -> list[RoomEvent]:
        """The whole state, members included: the present one, or as it was when the user left."""
        room = access.room
        if access.until is not None:
            return await self.load(room, await self.ordinals_as_of(room, access.until))
        members = await self.load(room, (member.ordinal for member in room.head.members.values()))
        return [*room.head.state.values(), *members]

    async def present_state_event(self, room: Room, event_type: str, state_key: str) -> RoomEvent | None:
        """One event of the present state."""
        if event_type != MEMBER:
            return room.head.state.get((event_type, state_key))
        member = room.head.members.get(state_key)
        return None if member is None else (await self.load(room, (member.ordinal,)))[0]

    async def members(self, room: Room, users: Iterable[str]) -> Mapping[str, RoomEvent]:
        """The present member events of those users, in one query for what is not in memory."""
        members = room.head.members
        ordinals = [member.ordinal for member in map(members.get, users) if member is not None]
        return {str(entry.stored.state_key): entry for entry in await self.load(room, ordinals)}

    async def state_before(self, room: Room, entry: StoredEvent) -> list[RoomEvent]:
        """The state before an event, off its snapshot."""
        if not entry.snapshot:
            return []
        return await self.load(room, state_at(await self._state.chain(room.key, entry.snapshot)))

    async def ordinals_after(self, room: Room, entry: StoredEvent) -> BitMap:
        """The state once an event had happened, as ordinals."""
        ordinals = BitMap()
        if entry.snapshot:
            ordinals = state_at(await self._state.chain(room.key, entry.snapshot))
        return with_event(ordinals, entry)

    async def ordinals_as_of(self, room: Room, position: int) -> BitMap:
        """The state of the room once its newest event at or below a stream position had come, as ordinals."""
        timeline = await self._events.timelines([(room.key, 0, position)], 1)
        events = timeline[room.key]
        if not events or not events[0].current_snapshot:
            return BitMap()
        return state_at(await self._state.chain(room.key, events[0].current_snapshot))

    async def load(self, room: Room, ordinals: Iterable[int]) -> list[RoomEvent]:
        """The events at those ordinals: state, from memory or in one query (see `LARGEST_LOAD`)."""
        current = {entry.stored.ordinal: entry for entry in room.head.state.values()}
        found: list[RoomEvent] = []
        missing: list[int] = []
        for ordinal in ordinals:
            entry = current.get(ordinal) or self._member_events.peek(room.key, ordinal)
            if entry is None:
                missing.append(ordinal)
            else:
                found.append(entry)
        # What is in memory was taken first: where not all of them fit, each portion read would push out the next.
        for start in range(0, len(missing), LARGEST_LOAD):
            portion = missing[start : start + LARGEST_LOAD]
            found.extend(await self._member_events.load(room.key, room.room_id, room.head.version, portion))
        return found

    async def load_many(
        self, wanted: Mapping[int, tuple[Room, Collection[int]]]
    ) -> dict[int, list[RoomEvent]]:
        """As `load`, for several rooms by key, with one query for what is not in memory."""
        await self._member_events.load_many(
            (room.key, room.room_id, room.head.version, ordinal)
            for room, ordinals in wanted.values()
            for ordinal in self._not_current(room, ordinals)
        )
        return {key: await self.load(room, ordinals) for key, (room, ordinals) in wanted.items()}

    @staticmethod
    def _not_current(room: Room, ordinals: Collection[int]) -> set[int]:
        current = {entry.stored.ordinal for entry in room.head.state.values()}
        return set(ordinals) - current


def with_event(ordinals: BitMap, entry: StoredEvent) -> BitMap:
    """The state after an event, given the ordinals of the state before it, which are changed."""
    if entry.state_key is not None:
        if entry.replaces is not None:
            ordinals.discard(entry.replaces)
        ordinals.add(entry.ordinal)
    return ordinals


def _weight_of(past: Sequence[Interval]) -> int:
    """About how many bytes it takes with what it is found by."""
    return 500 + 230 * len(past)


def _unseen(user_id: str, room_id: str) -> Forbidden:
    return Forbidden(f"User {user_id} not in room {room_id}, and the room's history is not open to all")
