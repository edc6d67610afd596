# SPDX-License-Identifier: Apache-2.0
"""What an event of this server's users may not relate to.

Client-server API, "Avoiding duplicate annotations" and "Validation of `m.thread` relationships". What comes from
elsewhere is not judged here, nor whether a parent is known: a relation to an unknown event is as good as any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from homeserver.errors import DuplicateAnnotation, Unknown
from homeserver.events import RoomEvent
from homeserver.protocol.relations import ANNOTATION, THREAD, Relation, annotation_key, relation_of
from homeserver.rooms.engine import Room, RoomCache
from storage.events import EventStore
from storage.relations import RelationStore


class RelationRules:
    """One per process."""

    def __init__(self, *, cache: RoomCache, events: EventStore, relations: RelationStore) -> None:
        self._cache = cache
        self._events = events
        self._relations = relations

    async def check(self, room_id: str, sender: str, event_type: str, content: Mapping[str, Any]) -> None:
        """Raise DuplicateAnnotation for an annotation the sender already made, Unknown for a thread off a child.

        A query for events of these two relations, none for others. Two equal annotations sent at the same moment can
        both pass; clients count them as one. Who is not in the room is told nothing.
        """
        relation = relation_of(content)
        if relation is None or relation.rel_type not in (ANNOTATION, THREAD):
            return
        room = await self._cache.get(room_id)
        if room is None or not room.head.is_joined(sender):
            return
        if relation.rel_type == ANNOTATION:
            await self._check_annotation(room, sender, event_type, content, relation)
        else:
            await self._check_root(room, relation)

    async def _check_annotation(
        self, room: Room, sender: str, event_type: str, content: Mapping[str, Any], relation: Relation
    ) -> None:
        key = annotation_key(content)
        if key is None:
            return
        for pdu in await self._relations.annotations(room.key, relation.event_id, sender, event_type):
            if annotation_key(orjson.loads(pdu)["content"]) == key:
                raise DuplicateAnnotation

    async def _check_root(self, room: Room, relation: Relation) -> None:
        stored = (await self._events.by_ids((relation.event_id,))).get(relation.event_id)
        if stored is None or stored.room != room.key:
            return
        root = RoomEvent(stored, room.room_id, room.head.version)
        if relation_of(root.event.content) is not None:
            raise Unknown("A thread cannot begin at an event that itself relates to another")
