# SPDX-License-Identifier: Apache-2.0
"""Every place where memory holds an event, for when one changes after it was written: it gets a place, or is redacted.

Owns finding those places in a room and among its member events. That an event changed is said by who writes it, or
reads that another process did.
"""

from __future__ import annotations

from homeserver.events import RoomEvent
from homeserver.rooms.engine.member_events import MemberEvents
from homeserver.rooms.engine.room import Room
from storage.events import StoredEvent


class EventCopies:
    """One per process."""

    def __init__(self, member_events: MemberEvents) -> None:
        self._member_events = member_events

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
