# SPDX-License-Identifier: Apache-2.0
"""Walking a room's graph from given events towards the past: what `backfill` and `get_missing_events` share.

Bounded whatever the graph is like: one query reads the events next below by depth, and only what the edges lead to
outside of them is read by id, a few times at most. A walk that would need more ends earlier; who asked asks on from
there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, Final

import orjson
from msgspec import Struct

from homeserver.needs import Protocol
from storage.events import StoredEvent

Place = tuple[int, int]
Order = Callable[[StoredEvent, int], Place]
"""From an event and its distance from where the walk began to its place in the walk, the lowest first."""

_SPARE: Final = 2
"""Of the events next below by depth so many times those wanted are read: some are on other branches."""
_ROUNDS: Final = 4
"""Further queries for events that depth did not lead to."""
_MOST_EDGES: Final = 1000
"""Previous events followed of one event: none that was made here has more than twenty, but old rooms have."""


class Ancestors(Protocol):
    """`storage.ancestors.AncestorStore`."""

    async def below(self, room: int, event_ids: Sequence[str], limit: int) -> list[StoredEvent]: ...

    async def by_ids(self, room: int, event_ids: Sequence[str]) -> list[StoredEvent]: ...


def nearest_first(_event: StoredEvent, distance: int) -> Place:
    """Breadth first."""
    return distance, 0


def newest_first(event: StoredEvent, _distance: int) -> Place:
    """As clients page backwards."""
    return -event.depth, -event.position


class Walk(Struct, frozen=True, kw_only=True):
    """Which events are wanted: up to `limit` at or before those of `start`, in the walk's order.

    `with_start`: those of `start` are among them. Events of `stop_at` are neither given nor passed, nor are those less
    deep than `min_depth`.
    """

    start: Sequence[str]
    limit: int
    order: Order
    with_start: bool
    stop_at: Collection[str] = ()
    min_depth: int | None = None

    async def run(self, store: Ancestors, room: int) -> list[StoredEvent]:
        """The events."""
        below = await store.below(room, self.start, self.limit * _SPARE + len(self.start))
        graph = {stored.event_id: stored for stored in below}
        asked: set[str] = set()
        for _ in range(_ROUNDS):
            found, unknown = self._follow(graph)
            unknown -= asked
            if not unknown:
                return found
            more = sorted(unknown)[: self.limit + len(self.start)]
            asked.update(more)
            graph.update((stored.event_id, stored) for stored in await store.by_ids(room, more))
        return self._follow(graph)[0]

    def _follow(self, graph: Mapping[str, StoredEvent]) -> tuple[list[StoredEvent], set[str]]:
        """The walk over what is at hand, and the ids of events it came upon that are not."""
        found: list[StoredEvent] = []
        unknown: set[str] = set()
        seen = set(self.stop_at)
        waiting: list[tuple[Place, str, int]] = []

        def reach(event_id: str, distance: int) -> None:
            if event_id in seen:
                return
            seen.add(event_id)
            stored = graph.get(event_id)
            if stored is None:
                unknown.add(event_id)
            elif distance == 0 or self.min_depth is None or stored.depth >= self.min_depth:
                heappush(waiting, (self.order(stored, distance), event_id, distance))

        for event_id in self.start:
            reach(event_id, 0)
        while waiting and len(found) < self.limit:
            _, event_id, distance = heappop(waiting)
            stored = graph[event_id]
            if distance or self.with_start:
                found.append(stored)
            for previous in previous_of(stored):
                reach(previous, distance + 1)
        return found, unknown


def previous_of(stored: StoredEvent) -> list[str]:
    """The ids of the events before one, of whatever room version: early ones pair them with hashes."""
    named: Any = orjson.loads(stored.pdu).get("prev_events")
    if not isinstance(named, list):
        return []
    ids = (each[0] if isinstance(each, list) and each else each for each in named[:_MOST_EDGES])
    return [each for each in ids if isinstance(each, str)]
