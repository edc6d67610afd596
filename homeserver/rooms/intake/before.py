# SPDX-License-Identifier: Apache-2.0
"""States before and after events that are not at the head of the room."""

from __future__ import annotations

from collections.abc import Iterable

from pyroaring import BitMap

from homeserver.events import RoomEvent
from homeserver.rooms.engine.head import StateKey
from homeserver.rooms.engine.snapshots import NOTHING, State
from homeserver.rooms.intake.ground import CREATE, Ground
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from homeserver.rooms.intake.resolving import resolve_states
from storage.events import REJECTED


def state_of_all(ground: Ground, snapshots: Iterable[int]) -> State:
    """The state that several states resolve to; a new one only if it is none of them. Raises Lacking."""
    wanted = list(dict.fromkeys(snapshots))
    if len(wanted) > 1:
        for snapshot in (*wanted, ground.head.snapshot):
            ground.want_state(snapshot)
    states = [ground.state(snapshot) for snapshot in wanted]
    if len(states) == 1:
        return states[0]
    present = ground.state(ground.head.snapshot)
    return ground.moving.make_state(resolve_states(ground, states), [present, *states])


def state_after(ground: Ground, entry: RoomEvent) -> State:
    """The state after a state event: the one before with it put in. Raises Lacking."""
    stored = entry.stored
    before = ground.state(stored.snapshot or NOTHING.snapshot)
    ordinals = before.ordinals.copy()
    if stored.replaces is not None:
        ordinals.discard(stored.replaces)
    ordinals.add(stored.ordinal)
    return ground.moving.make_state(ordinals, [before])


def state_given(ground: Ground, incoming: Incoming) -> int | Verdict:
    """The snapshot of the state that was fetched along with an event. What was rejected is no state. Raises Lacking."""
    event_ids = tuple(dict.fromkeys(incoming.state_before or ()))
    new = {event_id: entry for event_id in event_ids if (entry := ground.in_batch(event_id)) is not None}
    named = ground.knowledge.named(event_id for event_id in event_ids if event_id not in new)
    ground.want_state(ground.head.snapshot)
    ground.check()
    pieces: dict[StateKey, int] = {}
    missing: list[str] = []
    for event_id in event_ids:
        if event_id in new:
            stored = new[event_id].stored
            if stored.state_key is not None and not stored.flags & REJECTED:
                pieces.setdefault((stored.type, stored.state_key), stored.ordinal)
            continue
        known = named[event_id]
        if known is None or known.room != ground.head.room or not known.judged:
            missing.append(event_id)
        elif known.state_key is not None and not known.flags & REJECTED:
            pieces.setdefault((known.type, known.state_key), known.ordinal)
    event = incoming.event
    if missing:
        return Verdict(event.event_id, Outcome.MISSING, missing_auth=tuple(missing))
    if CREATE not in pieces:
        return Verdict(event.event_id, Outcome.REJECTED, "the state before it has no m.room.create event")
    near = [ground.state(ground.head.snapshot), NOTHING]
    return ground.moving.make_state(BitMap(pieces.values()), near).snapshot
