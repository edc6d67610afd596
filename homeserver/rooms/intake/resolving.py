# SPDX-License-Identifier: Apache-2.0
"""Resolving states of a room that are bitmaps: only what they differ in is loaded.

Owns the `EventSource` over stored authorization chains. What the algorithm looks at of the state that all have in
common is found beforehand: the keys by which the contested events are authorized.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from pyroaring import BitMap

from homeserver.events import RoomEvent
from homeserver.protocol.event_auth import auth_types_for
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import StateResolution
from homeserver.protocol.state_resolution import resolve
from homeserver.rooms.engine.head import StateKey
from homeserver.rooms.engine.snapshots import State
from homeserver.rooms.intake.ground import CREATE, Ground, key_of
from storage.events import REJECTED

MOST_CONTESTED = 1000
"""Events that states differ in, thought about in one turn (some 50 µs each). States that a server tells can differ in
all members of a large room; one such resolution must be waited for, several must not follow without a pause."""

POWER_LEVELS: StateKey = ("m.room.power_levels", "")


def resolve_states(ground: Ground, states: Sequence[State]) -> BitMap:
    """The ordinals of the resolved state. Raises Lacking."""
    common, union = states[0].ordinals.copy(), states[0].ordinals.copy()
    for state in states[1:]:
        common &= state.ordinals
        union |= state.ordinals
    if common == union:
        return common
    contested = {entry.stored.ordinal: entry for entry in ground.all_at(union - common)}
    ground.contested += len(contested)
    source = _Source(ground, common, contested)
    shared = source.prepare(states)
    maps = []
    for state in states:
        held = {key: entry.stored.event_id for key, entry in shared.items()}
        for ordinal in state.ordinals - common:
            held[key_of(contested[ordinal])] = contested[ordinal].stored.event_id
        maps.append(held)
    resolved = resolve(ground.head.version, maps, source)
    result = common.copy()
    result.update(source.ordinal(event_id) for key, event_id in resolved.items() if key not in shared)
    return result


class _Source:
    """`EventSource` of one resolution. All sets of events are bitmaps of ordinals until the algorithm asks."""

    def __init__(self, ground: Ground, common: BitMap, contested: dict[int, RoomEvent]) -> None:
        self._ground = ground
        self._common = common
        self._contested = contested
        self._entries: dict[str, RoomEvent] = {}
        self._difference: set[str] = set()
        self._subgraph: set[str] = set()

    def prepare(self, states: Sequence[State]) -> dict[StateKey, RoomEvent]:
        """Load what the algorithm will ask; what all states agree on of that, by key. Raises Lacking."""
        version = self._ground.head.version
        full = dict(self._contested)
        if version.state_resolution is not StateResolution.V1:
            difference = self._find_difference(states)
            subgraph = self._find_subgraph() if version.state_resolution is StateResolution.V2_1 else BitMap()
            found = self._ground.all_at((difference | subgraph) - BitMap(full))
            full.update((entry.stored.ordinal, entry) for entry in found)
            self._difference = {full[ordinal].stored.event_id for ordinal in difference}
            self._subgraph = {full[ordinal].stored.event_id for ordinal in subgraph}
        shared = self._find_shared(states[0], full.values())
        self._load_cited(full, shared)
        return shared

    def _find_shared(self, first: State, full: Iterable[RoomEvent]) -> dict[StateKey, RoomEvent]:
        contested = {key_of(entry) for entry in self._contested.values()}
        keys: dict[StateKey, None] = {CREATE: None}
        for entry in full:
            event = entry.event
            if event.state_key is None:
                continue
            keys[event.state_tuple] = None
            for key in auth_types_for(
                event.room_version, event.type, event.sender, event.state_key, event.content
            ):
                keys[key] = None
        found = self._ground.lens(first.snapshot).many(key for key in keys if key not in contested)
        return {key: entry for key, entry in found.items() if entry.stored.ordinal in self._common}

    def _load_cited(self, full: dict[int, RoomEvent], shared: dict[StateKey, RoomEvent]) -> None:
        ground = self._ground
        self._know(full.values())
        self._know(shared.values())
        chain = BitMap()
        for entry in (*full.values(), *(e for key, e in shared.items() if key == POWER_LEVELS)):
            chain |= entry.auth_chain
        self._know(ground.knowledge.power_levels(chain))
        self._know(
            entry
            for entry in ground.moving.appended
            if entry.stored.ordinal in chain and (entry.stored.type, entry.stored.state_key) == POWER_LEVELS
        )
        cited = {auth_id for entry in full.values() for auth_id in entry.event.auth_event_ids}
        found = [ground.event(auth_id) for auth_id in cited if auth_id not in self._entries]
        ground.check()
        self._know(entry for entry in found if entry is not None and entry.stored.room == ground.head.room)

    def _know(self, entries: Iterable[RoomEvent]) -> None:
        self._entries.update((entry.stored.event_id, entry) for entry in entries)

    def ordinal(self, event_id: str) -> int:
        return self._entries[event_id].stored.ordinal

    def _find_difference(self, states: Sequence[State]) -> BitMap:
        """What is in the auth chain of some state and not of every one, but for the states' own events."""
        anywhere, everywhere = BitMap(), None
        for state in states:
            chain = BitMap()
            for ordinal in state.ordinals - self._common:
                chain |= self._contested[ordinal].auth_chain
            anywhere |= chain
            everywhere = chain if everywhere is None else everywhere & chain
        difference = anywhere - (everywhere or BitMap()) - self._common - BitMap(self._contested)
        if difference:
            # Seldom so. What anything agreed on cites is in the chain of every state; first what is in memory.
            for entry in (*self._ground.head.state.values(), *self._ground.moving.appended):
                if entry.stored.ordinal in self._common:
                    difference -= entry.auth_chain
        if difference:
            new = BitMap(entry.stored.ordinal for entry in self._ground.moving.appended)
            difference -= self._ground.knowledge.cited_by_all(self._common - new)
            self._ground.check()
        return difference

    def _find_subgraph(self) -> BitMap:
        """What lies on a path of citations between contested events."""
        below = BitMap()
        for entry in self._contested.values():
            below |= entry.auth_chain
        contested = BitMap(self._contested)
        if not below & contested:
            return BitMap()
        new = {entry.stored.ordinal: entry for entry in self._ground.moving.appended}
        chains = {
            ordinal: new[ordinal].auth_chain if ordinal in new else self._ground.knowledge.chain(ordinal)
            for ordinal in below - contested
        }
        self._ground.check()
        return BitMap(ordinal for ordinal, chain in chains.items() if chain & contested)

    # What the algorithm asks.

    def event(self, event_id: str) -> Event | None:
        entry = self._entries.get(event_id)
        return None if entry is None else entry.event

    def is_rejected(self, event_id: str) -> bool:
        entry = self._entries.get(event_id)
        return entry is not None and bool(entry.stored.flags & REJECTED)

    def auth_difference(
        self, conflicted: Sequence[Collection[str]], unconflicted: Collection[str]
    ) -> Collection[str]:
        return self._difference

    def conflicted_subgraph(self, conflicted: Collection[str]) -> Collection[str]:
        return self._subgraph
