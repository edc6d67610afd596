# SPDX-License-Identifier: Apache-2.0
"""Timelines as bytes, shared by everyone who is shown the same events of a room at about the same time.

One message to a room of five hundred listeners is rendered once. What differs between readers is not shared: the
transaction id that a sender's own device gets, other formats, the view of one who joined later, and what events add up
to with their children.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import orjson

from homeserver.events.rendering import Past, Reader, render, tells_own
from homeserver.rooms.engine import RoomHead
from homeserver.sync.sight import STAY
from homeserver.sync.timeline import Timeline

BUDGET = 16_000_000
"""Bytes of fragments kept, unless told otherwise."""
_OVERHEAD = 500
"""Of each, for its key and its place."""
SHELF_LIFE = 5_000
"""Milliseconds after which `age` would be too far off."""

NO_RELATIONS: Final[Mapping[str, bytes]] = MappingProxyType({})

_Key = tuple[int, int, bool, tuple[int, ...]]


class TimelineFragments:
    """One per process."""

    def __init__(self, *, budget: int = BUDGET) -> None:
        self._budget = budget
        self._kept: OrderedDict[_Key, tuple[int, bytes]] = OrderedDict()
        self._size = 0

    @property
    def weight(self) -> int:
        """Bytes that are kept."""
        return self._size

    def timeline(
        self,
        timeline: Timeline,
        head: RoomHead,
        reader: Reader,
        past: Past,
        relations: Mapping[str, bytes] = NO_RELATIONS,
    ) -> bytes:
        """The value of a room's `timeline`. `past` is `STAY` where the reader was joined all along.

        `relations` is what goes under `m.relations`, by event id, of this and perhaps of other rooms.
        """
        events = timeline.events
        if relations and any(entry.stored.event_id in relations for entry in events):
            return _written(timeline, reader, past, relations)
        if not events or past is not STAY or reader.reshapes or _has_own(timeline, reader):
            return _written(timeline, reader, past)
        # A redaction, which changes how an event is shown, moves the head.
        key = (head.room, head.head, timeline.limited, tuple([entry.stored.ordinal for entry in events]))
        known = self._kept.get(key)
        if known is not None and reader.now - known[0] < SHELF_LIFE:
            return known[1]
        written = _written(timeline, reader, past)
        self._keep(key, reader.now, written)
        return written

    def _keep(self, key: _Key, now: int, written: bytes) -> None:
        before = self._kept.pop(key, None)
        if before is not None:
            self._size -= len(before[1]) + _OVERHEAD
        self._kept[key] = (now, written)
        self._size += len(written) + _OVERHEAD
        while self._size > self._budget:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._size -= len(oldest) + _OVERHEAD


def _has_own(timeline: Timeline, reader: Reader) -> bool:
    return any(tells_own(entry.stored, reader) for entry in timeline.events)


def _written(
    timeline: Timeline, reader: Reader, past: Past, relations: Mapping[str, bytes] = NO_RELATIONS
) -> bytes:
    events = b",".join(
        render(entry, reader, past, room_id=False, relations=relations.get(entry.stored.event_id))
        for entry in timeline.events
    )
    limited = b"true" if timeline.limited else b"false"
    place = timeline.prev_batch
    prev_batch = b"" if place is None else b',"prev_batch":' + orjson.dumps(str(place))
    return b'{"events":[' + events + b'],"limited":' + limited + prev_batch + b"}"
