# SPDX-License-Identifier: Apache-2.0
"""What is known of a room's stored events while a batch is made: asked synchronously, loaded in between.

Python thinks without waiting: what it asks and is not in memory is noted, `Lacking` ends the attempt, everything noted
is loaded in a query per kind, and the attempt begins again. What was learnt holds for one head of the room only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from pyroaring import BitMap

from homeserver.events import RoomEvent
from homeserver.rooms.engine import RoomHead
from homeserver.rooms.engine.head import StateKey
from homeserver.rooms.engine.queued import HeadMoved, LoadFirst
from homeserver.rooms.engine.snapshots import State
from homeserver.stream.changes import Change
from storage.events import EventStore, StoredEvent
from storage.received import Awaiting, NamedEvent, ReceivedStore
from storage.room_history import RoomHistoryStore

NOBODY = Awaiting([], [])
STATES_KEPT = 4096
"""States in memory, a few kilobytes each."""


class Lacking(LoadFirst):
    """Something must be loaded before the work can go on."""


class States:
    """Stored states of rooms in memory: they never change, but for a room that another process completes."""

    def __init__(self, history: RoomHistoryStore) -> None:
        self._history = history
        self._states: OrderedDict[tuple[int, int], State] = OrderedDict()
        self.generation = 0
        """Grows when rooms are completed, so that who has states from before can tell."""

    def peek(self, room: int, snapshot: int) -> State | None:
        state = self._states.get((room, snapshot))
        if state is not None:
            self._states.move_to_end((room, snapshot))
        return state

    def put(self, room: int, states: Iterable[State], generation: int) -> None:
        """Keep states that were read, or made of what was, since that generation began; unless it is over."""
        if generation != self.generation:
            return
        for state in states:
            self._states[room, state.snapshot] = state
        while len(self._states) > STATES_KEPT:
            self._states.popitem(last=False)

    async def load(self, room: int, snapshots: Iterable[int]) -> list[State]:
        """Those states, in one query."""
        generation = self.generation
        chains = await self._history.chains([(room, snapshot) for snapshot in snapshots])
        found = [State.of_chain(snapshot, chain) for (_, snapshot), chain in chains.items()]
        self.put(room, found, generation)
        return found

    def changed(self, change: Change) -> Iterable[str]:
        """Rooms were completed, or may have been; for the stream to call."""
        if change.unknown or change.whole:
            self.generation += 1
            rooms = set(change.rooms)
            for key in [k for k in self._states if change.unknown or k[0] in rooms]:
                del self._states[key]
        return ()


class Knowledge:
    """Of one room at one head."""

    def __init__(
        self, head: RoomHead, *, events: EventStore, received: ReceivedStore, states: States
    ) -> None:
        self._head = head
        self._head_moved = False
        self._events = events
        self._received = received
        self._states = states
        self._by_id: dict[str, RoomEvent | None] = {}
        self._by_ordinal: dict[int, RoomEvent] = {}
        self._keys: dict[int, StateKey] = {}
        self._loaded: dict[int, State] = {}
        self._awaiting: dict[str, Awaiting] = {}
        self._named: dict[str, NamedEvent | None] = {}
        self._cited: dict[bytes, BitMap] = {}
        self._chains: dict[int, BitMap] = {}
        self._levels: dict[bytes, list[RoomEvent]] = {}
        self._wanted_ids: set[str] = set()
        self._wanted_ordinals: set[int] = set()
        self._wanted_keys: set[int] = set()
        self._wanted_states: set[int] = set()
        self._wanted_awaiting: set[str] = set()
        self._wanted_names: set[str] = set()
        self._wanted_cited: dict[bytes, BitMap] = {}
        self._wanted_chains: set[int] = set()
        self._wanted_levels: dict[bytes, BitMap] = {}

    # Asking. What is not known is noted; `check` ends the attempt if anything was.

    def check(self) -> None:
        """Raises Lacking if anything asked so far is not known."""
        if (
            self._wanted_ids
            or self._wanted_ordinals
            or self._wanted_keys
            or self._wanted_states
            or self._wanted_awaiting
            or self._wanted_names
            or self._wanted_cited
            or self._wanted_chains
            or self._wanted_levels
        ):
            raise Lacking

    def event(self, event_id: str) -> RoomEvent | None:
        """A stored event of whatever room (a foreign one by its `stored.room`)."""
        if event_id not in self._by_id:
            self._wanted_ids.add(event_id)
        return self._by_id.get(event_id)

    def at(self, ordinal: int) -> RoomEvent | None:
        """The event at an ordinal; None means that it is not loaded yet."""
        entry = self._by_ordinal.get(ordinal)
        if entry is None:
            self._wanted_ordinals.add(ordinal)
        return entry

    def key_at(self, ordinal: int) -> StateKey | None:
        """Type and state key of the state event at an ordinal; None means that they are not loaded yet."""
        key = self._keys.get(ordinal)
        if key is None:
            entry = self._by_ordinal.get(ordinal)
            if entry is None:
                self._wanted_keys.add(ordinal)
            else:
                key = (entry.stored.type, entry.stored.state_key or "")
        return key

    def state(self, snapshot: int) -> State | None:
        """A stored state; None means that it is not loaded yet."""
        state = self._loaded.get(snapshot) or self._states.peek(self._head.room, snapshot)
        if state is None:
            self._wanted_states.add(snapshot)
        return state

    def awaiting(self, event_id: str) -> Awaiting:
        """Who waits for an event."""
        if event_id not in self._awaiting:
            self._wanted_awaiting.add(event_id)
        return self._awaiting.get(event_id, NOBODY)

    def named(self, event_ids: Iterable[str]) -> Mapping[str, NamedEvent | None]:
        """Stored events, as much of them as places them in a state."""
        self._wanted_names.update(event_id for event_id in event_ids if event_id not in self._named)
        return self._named

    def cited_by_all(self, ordinals: BitMap) -> BitMap:
        """The auth chains of all those events together."""
        key = bytes(ordinals.serialize())
        if key not in self._cited:
            self._wanted_cited[key] = ordinals
        return self._cited.get(key, BitMap())

    def chain(self, ordinal: int) -> BitMap:
        """The auth chain of an event."""
        if ordinal not in self._chains:
            self._wanted_chains.add(ordinal)
        return self._chains.get(ordinal, BitMap())

    def power_levels(self, ordinals: BitMap) -> list[RoomEvent]:
        """The power levels among those events."""
        key = bytes(ordinals.serialize())
        if key not in self._levels:
            self._wanted_levels[key] = ordinals
        return self._levels.get(key, [])

    # Loading.

    async def load(self) -> None:
        """Learn what was asked: one query for each kind of question.

        Raises HeadMoved if that turns out to be of the room as another process has written it since: ordinals and
        snapshots that are still free by this head are taken there.
        """
        room = self._head.room
        if self._wanted_ids:
            ids, self._wanted_ids = list(self._wanted_ids), set()
            found = await self._events.by_ids(ids)
            for event_id in ids:
                stored = found.get(event_id)
                self._by_id[event_id] = None if stored is None else self._take(stored)
        if self._wanted_ordinals:
            ordinals, self._wanted_ordinals = self._wanted_ordinals, set()
            for stored in await self._events.by_ordinals((room, ordinal) for ordinal in ordinals):
                self._take(stored)
            self._check_found(ordinals - self._by_ordinal.keys())
        if self._wanted_keys:
            ordinals, self._wanted_keys = self._wanted_keys, set()
            self._keys.update(await self._received.keys(room, ordinals))
            self._check_found(ordinals - self._keys.keys())
        if self._wanted_states:
            snapshots, self._wanted_states = self._wanted_states, set()
            self._loaded.update((state.snapshot, state) for state in await self._states.load(room, snapshots))
        if self._wanted_awaiting:
            ids, self._wanted_awaiting = list(self._wanted_awaiting), set()
            waiting = await self._received.awaiting(room, ids)
            self._awaiting.update((event_id, waiting.get(event_id, NOBODY)) for event_id in ids)
        if self._wanted_names:
            ids, self._wanted_names = list(self._wanted_names), set()
            named = await self._received.named(ids)
            self._named.update((event_id, named.get(event_id)) for event_id in ids)
        await self._load_citations(room)
        if self._head_moved:
            raise HeadMoved

    def _check_found(self, lost: set[int]) -> None:
        if lost:
            raise LookupError(f"events {sorted(lost)[:10]} of {self._head.room_id} are named but not stored")

    async def _load_citations(self, room: int) -> None:
        wanted, self._wanted_cited = self._wanted_cited, {}
        for key, ordinals in wanted.items():
            cited = BitMap()
            for raw in await self._received.chains_of_all(room, ordinals):
                cited |= BitMap.deserialize(raw)
            self._cited[key] = cited
        if self._wanted_chains:
            singles, self._wanted_chains = self._wanted_chains, set()
            chains = await self._received.chains(room, singles)
            for ordinal in singles:
                raw_chain = chains.get(ordinal)
                self._chains[ordinal] = BitMap() if raw_chain is None else BitMap.deserialize(raw_chain)
        levels, self._wanted_levels = self._wanted_levels, {}
        for key, ordinals in levels.items():
            found = await self._received.power_levels(room, ordinals)
            self._levels[key] = [self._take(stored) for stored in found]

    def _take(self, stored: StoredEvent) -> RoomEvent:
        if stored.room != self._head.room:
            return RoomEvent(stored, self._head.room_id, self._head.version)
        newest = max(stored.snapshot or 0, stored.current_snapshot or 0, stored.after_snapshot or 0)
        self._head_moved |= stored.ordinal >= self._head.next_ordinal or newest >= self._head.next_snapshot
        entry = self._by_ordinal.get(stored.ordinal)
        if entry is None:
            entry = RoomEvent(stored, self._head.room_id, self._head.version)
            self._by_ordinal[stored.ordinal] = entry
            self._by_id[stored.event_id] = entry
        return entry
