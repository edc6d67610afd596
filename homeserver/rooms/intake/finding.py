# SPDX-License-Identifier: Apache-2.0
"""What an event from outside names, as far as it is known here, and the row it makes with that."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from pyroaring import BitMap

from homeserver.events import RoomEvent
from homeserver.protocol.building import next_depth
from homeserver.protocol.events import Event
from homeserver.protocol.visibility import HistoryVisibility
from homeserver.rooms.engine.moving import MEMBER
from homeserver.rooms.intake.ground import Ground
from homeserver.rooms.intake.incoming import Outcome, Verdict
from homeserver.stream.batches import Row
from storage.events import OUTLIER, StoredEvent

VISIBILITY = ("m.room.history_visibility", "")


class Found(Struct, frozen=True):
    """See the module."""

    event: Event
    """The event; as it is stored, if it is."""
    known: RoomEvent | None
    """The event itself, an outlier so far."""
    cited: Sequence[RoomEvent]
    previous: Sequence[RoomEvent]
    """Those whose place in the room is known."""
    missing_auth: Sequence[str]
    missing_prev: Sequence[str]

    def missing(self) -> Verdict:
        """That others must come first."""
        return Verdict(
            self.event.event_id,
            Outcome.MISSING,
            missing_prev=tuple(self.missing_prev),
            missing_auth=tuple(self.missing_auth),
        )


def find(ground: Ground, event: Event) -> Found | Verdict:
    """Look up all that an event names. A verdict if it is known already, or of another room. Raises Lacking."""
    room = ground.head.room
    known = ground.event(event.event_id)
    if known is not None and known.stored.room == room:
        event = known.event  # in versions 1 and 2 another event can come under the same id
    cited = {event_id: _cited(ground, event_id, _users(event)) for event_id in event.auth_event_ids}
    previous = {event_id: ground.event(event_id) for event_id in event.prev_event_ids}
    ground.check()
    if known is not None and known.stored.room != room:
        return Verdict(event.event_id, Outcome.REJECTED, "its id is another room's")
    if known is not None and not known.stored.flags & OUTLIER:
        return Verdict(event.event_id, Outcome.KNOWN)
    placed = {
        event_id: entry
        for event_id, entry in previous.items()
        if entry is not None and entry.stored.room == room and entry.stored.snapshot_after is not None
    }
    return Found(
        event,
        known,
        [entry for entry in cited.values() if entry is not None],
        list(placed.values()),
        [event_id for event_id, entry in cited.items() if entry is None],
        [event_id for event_id in previous if event_id not in placed],
    )


def _cited(ground: Ground, event_id: str, users: Sequence[str]) -> RoomEvent | None:
    """An event that was judged itself: an invite, say, that came while nobody of ours was in the room was not."""
    entry = ground.event(event_id, users)
    if entry is not None and _unjudged(entry):
        entry = ground.knowledge.event(event_id)  # memory may hold it as it was before
    return None if entry is None or _unjudged(entry) else entry


def _unjudged(entry: RoomEvent) -> bool:
    return entry.stored.flags == OUTLIER and entry.stored.auth_chain is None


def _users(event: Event) -> list[str]:
    """Users whose member events it probably cites."""
    users = [event.sender]
    if event.type == MEMBER:
        others = (event.state_key, event.content.get("join_authorised_via_users_server"))
        users.extend(user for user in others if isinstance(user, str))
    return users


def stored_event(ground: Ground, found: Found, json: str, before: int, flags: int) -> StoredEvent:
    """The event as it will be stored, its state before known, but for its position and what it does. Raises Lacking.

    Takes an ordinal if it has none.
    """
    event, known, lens = found.event, found.known, ground.lens(before)
    setting = lens.get(VISIBILITY)
    replaced = None if event.state_key is None else lens.get(event.state_tuple)
    ground.check()
    chain = None if known is None else known.stored.auth_chain
    if chain is None and event.state_key is not None:
        chain = _chain(found.cited, ground.head.room)
    visibility = HistoryVisibility.from_content(None if setting is None else setting.event.content)
    place = None if replaced is None else replaced.stored
    below = [entry.stored.depth for entry in found.previous]
    return StoredEvent(
        room=ground.head.room,
        ordinal=ground.moving.take_ordinal() if known is None else known.stored.ordinal,
        position=0,
        # Timelines are in this order: an event must not claim a place before what it builds on, and draw in after it
        # whatever builds on it.
        depth=max(event.depth, next_depth(below, event.room_version)) if below else event.depth,
        origin_server_ts=event.origin_server_ts,
        snapshot=before,
        replaces=None if place is None else place.ordinal,
        visibility=int(visibility),
        flags=flags,
        event_id=event.event_id,
        type=event.type,
        state_key=event.state_key,
        sender=event.sender,
        redacted_by=None if known is None else known.stored.redacted_by,
        transaction_id=None,
        device_id=None,
        auth_chain=chain,
        pdu=json if known is None else known.stored.pdu,
        replaced_pdu=None if place is None else place.pdu,
        redaction_pdu=None if known is None else known.stored.redaction_pdu,
        replaced_event_id=None if place is None else place.event_id,
        replaced_position=None if place is None else place.position,
        replaced_visibility=None if place is None else place.visibility,
    )


def _chain(cited: Sequence[RoomEvent], room: int) -> bytes:
    chain = BitMap()
    for entry in cited:
        if entry.stored.room == room:
            chain |= entry.auth_chain
            chain.add(entry.stored.ordinal)
    return bytes(chain.serialize())


def gap_rows(entry: RoomEvent, found: Found, offset: int | None = None) -> list[Row]:
    """That what comes before the event is not here; `offset` of one that takes a position of the stream."""
    stored = entry.stored
    place = {"ordinal": stored.ordinal, "depth": stored.depth}
    if offset is not None:
        place["i"] = offset
    return [{"missing_event_id": event_id, **place} for event_id in found.missing_prev]
