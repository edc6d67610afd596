# SPDX-License-Identifier: Apache-2.0
"""A head brought up to date by what another process wrote on top of it, instead of loading the room again. Pure.

Possible where the room simply went on: then its new state events say all that became of the state and the members. Each
event names the state before it and after, so a room that did otherwise (branches that were resolved, a state put in
place) is found out, and is loaded as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from immutables import Map
from msgspec import Struct

from homeserver.events import RoomEvent
from homeserver.rooms.engine.head import DERIVED_FROM, RoomHead
from storage.events import StoredEvent
from storage.rooms import Member, NewsOfRoom

MEMBER = "m.room.member"


class Followed(Struct, frozen=True):
    """The head now, and what led there; events that are not shown (`flags`), too."""

    head: RoomHead
    events: Sequence[RoomEvent]


def follow(held: RoomHead, news: NewsOfRoom) -> Followed | None:
    """The head after the news; None if the room is to be loaded as a whole."""
    if news.head <= held.head:
        return Followed(held, ())
    if news.events is None or news.partial or held.partial_servers is not None:
        return None
    if not news.extremities or not held.extremities:
        return None
    if news.oldest_position != held.oldest_position:
        return None  # history came, and may have struck what is held
    events = [event for event in news.events if event.position > held.position]
    if news.position != (events[-1].position if events else held.position) or not _goes_on(
        held, news, events
    ):
        return None
    head = held.copy()
    head.head = news.head
    head.depth = news.depth
    head.extremities = tuple(news.extremities)
    head.next_ordinal = news.next_ordinal
    head.next_snapshot = news.next_snapshot
    head.snapshot_weight = news.snapshot_weight
    head.position = news.position
    head.fresh_members = Map()
    head.resolved_from = None
    entries = [RoomEvent(event, head.room_id, head.version) for event in events]
    if news.snapshot != held.snapshot:
        head.snapshot = news.snapshot
        for entry in entries:
            if entry.stored.state_key is not None and not entry.stored.flags:
                _apply(head, entry)
    return Followed(head, entries)


def _goes_on(held: RoomHead, news: NewsOfRoom, events: Sequence[StoredEvent]) -> bool:
    """Whether the state is the one held, changed by the events in their order and by nothing else."""
    if news.snapshot == held.snapshot:
        return True
    snapshot = held.snapshot
    for event in events:
        if event.turns or event.snapshot != snapshot or event.current_snapshot is None:
            return False
        if (event.state_key is None or event.flags) and event.current_snapshot != snapshot:
            return False
        snapshot = event.current_snapshot
    return snapshot == news.snapshot


def _apply(head: RoomHead, entry: RoomEvent) -> None:
    stored = entry.stored
    assert stored.state_key is not None
    if stored.type != MEMBER:
        key = (stored.type, stored.state_key)
        head.state = head.state.set(key, entry)
        if key in DERIVED_FROM:
            head.forget_derived()
        return
    user_id = stored.state_key
    membership = str(entry.event.content["membership"])
    before = head.members.get(user_id)
    was = None if before is None else before.membership
    head.count_member(user_id, was, membership)
    # As `Moving` does: what only renews a membership leaves its interval standing.
    renewed = before is not None and was == membership and membership != "invite"
    since = before.since if before is not None and renewed else stored.position
    head.members = head.members.set(user_id, Member(membership, stored.ordinal, since))
