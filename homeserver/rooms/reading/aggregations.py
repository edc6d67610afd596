# SPDX-License-Identifier: Apache-2.0
"""Bundled aggregations: what `unsigned.m.relations` says of an event's children.

Client-server API, "Aggregations of child events" and the server behaviour of replacements, threads and references.
However many events there are, of however many rooms, it takes one query, and one more if there are threads among them,
whose last events have aggregations of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import orjson
from msgspec import Struct

from homeserver.events import RoomEvent
from homeserver.events.rendering import Past, Reader, render
from homeserver.protocol.relations import REFERENCE, REPLACE, THREAD, relation_of
from homeserver.rooms.access import RoomAccess
from homeserver.rooms.engine import Room
from storage.relations import Bundle, Parent, RelationStore

_ALL = 2**62


class Shown(Struct, frozen=True):
    """Events of one room that are shown to a reader, and what they may see there."""

    room: Room
    entries: Sequence[RoomEvent]
    past: Past
    may_see: Callable[[RoomEvent], bool]
    upto: int = _ALL
    """Where they left: what came later is not theirs to count."""

    @classmethod
    def to(cls, access: RoomAccess, entries: Sequence[RoomEvent]) -> Shown:
        """As the gate lets them."""
        upto = _ALL if access.until is None else access.until
        return cls(access.room, entries, access.sight, access.sight.may_see, upto)


class Aggregations:
    """One per process."""

    def __init__(self, store: RelationStore) -> None:
        self._store = store

    async def of(
        self, shown: Iterable[Shown], reader: Reader, ignored: frozenset[str], *, room_id: bool = True
    ) -> dict[str, bytes]:
        """By event id the value of `m.relations`, a JSON object, for those that have any."""
        parents: dict[str, tuple[Shown, RoomEvent]] = {}
        for part in shown:
            for entry in part.entries:
                if entry.stored.state_key is None:  # state events do not get any
                    parents[entry.stored.event_id] = (part, entry)
        if not parents:
            return {}
        rows = [_parent(part, entry) for part, entry in parents.values()]
        bundles = await self._store.bundles(rows, reader.user_id, ignored)
        visible: list[tuple[Bundle, Shown, RoomEvent | None]] = []
        last: list[Shown] = []
        for bundle in bundles:
            part, _ = parents[bundle.parent]
            child = None
            if bundle.event is not None:
                child = RoomEvent(bundle.event, part.room.room_id, part.room.head.version)
                if not part.may_see(child):
                    continue
                if bundle.rel_type == THREAD:
                    last.append(Shown(part.room, [child], part.past, part.may_see, part.upto))
            visible.append((bundle, part, child))
        below = await self._below(last, reader, ignored, room_id)
        found: dict[str, dict[str, bytes]] = {}
        for bundle, part, child in visible:
            event = None
            if child is not None:
                relations = below.get(child.stored.event_id)
                event = render(child, reader, part.past, room_id=room_id, relations=relations)
            _, parent = parents[bundle.parent]
            found.setdefault(bundle.parent, {})[bundle.rel_type] = _written(bundle, parent, reader, event)
        return {event_id: _object(relations) for event_id, relations in found.items()}

    async def _below(
        self, last: list[Shown], reader: Reader, ignored: frozenset[str], room_id: bool
    ) -> Mapping[str, bytes]:
        """The last events of threads cannot be roots of others, so this goes one step deep."""
        return await self.of(last, reader, ignored, room_id=room_id) if last else {}


def _parent(shown: Shown, entry: RoomEvent) -> Parent:
    stored = entry.stored
    relation = relation_of(entry.event.content)
    return Parent(
        stored.room,
        stored.event_id,
        shown.upto,
        stored.sender,
        stored.type,
        editable=stored.redacted_by is None and (relation is None or relation.rel_type != REPLACE),
        rootable=relation is None,
    )


def _written(bundle: Bundle, parent: RoomEvent, reader: Reader, event: bytes | None) -> bytes:
    if bundle.rel_type == REFERENCE:
        return orjson.dumps({"chunk": [{"event_id": event_id} for event_id in bundle.event_ids or ()]})
    assert event is not None
    if bundle.rel_type == REPLACE:
        return event
    participated = bundle.participated or parent.stored.sender == reader.user_id
    return b'{"latest_event":%s,"count":%d,"current_user_participated":%s}' % (
        event,
        bundle.size,
        b"true" if participated else b"false",
    )


def _object(relations: Mapping[str, bytes]) -> bytes:
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in relations.items()) + b"}"
