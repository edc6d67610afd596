# SPDX-License-Identifier: Apache-2.0
"""Events that a server passed on with altered content, when they come as they were sent.

Of an event whose content is not what was hashed only the redacted form is kept, under the same id; so whoever is first
to pass on an honest event with another content would empty it for good. When it comes intact, through whatever door,
its content is put back. What it was judged by is in the redacted form, too, so that nothing is judged again. Never the
other way round, and never what a redaction that counts here took away.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import orjson

from homeserver.events import RoomEvent
from homeserver.protocol.hashes import content_hash_matches, essential_bytes
from homeserver.protocol.relations import may_be_bundled, relation_of
from homeserver.rooms.engine import RoomCache, RoomHead
from homeserver.rooms.engine.head import SUMMARY_TYPES
from homeserver.rooms.intake.incoming import Incoming
from homeserver.stream import Committer
from homeserver.stream.batches import Row
from storage.events import EventStore, StoredEvent

logger = logging.getLogger(__name__)

MAX_TRIES: Final = 10


class Restoring:
    """One per process."""

    def __init__(self, *, cache: RoomCache, committer: Committer, events: EventStore) -> None:
        self._cache = cache
        self._committer = committer
        self._events = events

    async def restore(self, room_id: str, events: Sequence[Incoming]) -> None:
        """Put back the content of those of the events, all stored before, that were kept without it.

        Costs one query for all; what is stored as it came costs no more.
        """
        came = {each.event.event_id: each for each in events}
        for stored in (await self._events.by_ids(list(came))).values():
            if is_restored_by(stored, came[stored.event_id]):
                await self._restore(room_id, stored, came[stored.event_id])

    async def _restore(self, room_id: str, stored: StoredEvent, incoming: Incoming) -> None:
        for _ in range(MAX_TRIES):
            room = await self._cache.get(room_id)
            if room is None or room.key != stored.room:
                return
            row = _row(room.head, stored, incoming)
            await self._committer.write("restored_event", [row])
            self._cache.mark_stale(room_id)
            now = (await self._events.by_ids([stored.event_id])).get(stored.event_id)
            if now is None or now.pdu != stored.pdu or now.redacted_by is not None:
                logger.info("%s came with its content after all", stored.event_id)
                return
        logger.warning("the content of %s could not be put back: its room was too busy", stored.event_id)


def is_restored_by(stored: StoredEvent, incoming: Incoming) -> bool:
    """Whether the event was kept without its content, and this is what it was sent with."""
    if stored.redacted_by is not None or stored.pdu == incoming.json:
        return False
    version = incoming.event.room_version
    kept: dict[str, Any] = orjson.loads(stored.pdu)
    came = dict(incoming.event.pdu)
    if content_hash_matches(kept, version) or not content_hash_matches(came, version):
        return False
    # Where senders choose ids (room versions 1 and 2) another event can come under the same one.
    return essential_bytes(kept, version) == essential_bytes(came, version)


def _row(head: RoomHead, stored: StoredEvent, incoming: Incoming) -> Row:
    content = incoming.event.content
    relation = None if stored.flags else relation_of(content)
    return {
        "room": stored.room,
        "expected": head.head,
        "ordinal": stored.ordinal,
        "was": stored.pdu,
        "pdu": incoming.json,
        "relation": None
        if relation is None
        else {
            "relates_to": relation.event_id,
            "rel_type": relation.rel_type,
            "bundled": may_be_bundled(relation, stored.type, stored.state_key, content),
        },
        "summaries": _summaries(head, stored, incoming),
    }


def _summaries(head: RoomHead, stored: StoredEvent, incoming: Incoming) -> list[Row] | None:
    """The room's summary with the event, if it is a piece of the present state that summaries show."""
    key = (stored.type, stored.state_key or "")
    present = head.state.get(key)
    if present is None or present.stored.ordinal != stored.ordinal or stored.type not in SUMMARY_TYPES:
        return None
    with_it = head.copy()
    whole = RoomEvent(stored._replace(pdu=incoming.json), head.room_id, head.version, incoming.event)
    with_it.state = head.state.set(key, whole)
    with_it.forget_derived()
    return [{**with_it.summary(), "r": 0}]
