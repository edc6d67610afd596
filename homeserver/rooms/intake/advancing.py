# SPDX-License-Identifier: Apache-2.0
"""The room moves on: its extremities once an event stands, and the present state, which all of them together make."""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.events import RoomEvent
from homeserver.rooms.engine.snapshots import State
from homeserver.rooms.intake.before import state_of_all
from homeserver.rooms.intake.ground import Ground, key_of
from storage.events import OUTLIER, REJECTED, SOFT_FAILED

_LONGEST_WALK = 100
"""Events that do not stand, walked over to what they stood on: theirs are no extremities any more either."""


def is_superseded(ground: Ground, entry: RoomEvent) -> bool:
    """Whether an event that stands came before this one and builds on it. Raises Lacking."""
    event_id = entry.stored.event_id
    children = [flags for _, flags in ground.knowledge.awaiting(event_id).children]
    ground.check()
    for row in ground.moving.rows.gaps:
        if row["missing_event_id"] == event_id:
            children.append(ground.all_at([row["ordinal"]])[0].stored.flags)
    return any(not flags & (REJECTED | SOFT_FAILED | OUTLIER) for flags in children)


def advance(
    ground: Ground, entry: RoomEvent, previous: Sequence[RoomEvent], after: int, stripped_state: str | None
) -> None:
    """An event that stands becomes part of the room somewhere behind or beside its end. Raises Lacking.

    `after` is the snapshot of the state after it.
    """
    head, stored = ground.head, entry.stored
    ends = dict(head.extremities)
    for event_id in _built_on(ground, entry, previous):
        ends.pop(event_id, None)
    if not ends or not is_superseded(ground, entry):
        ends[stored.event_id] = stored.ordinal
    others = {event_id: ground.event(event_id) for event_id in ends if event_id != stored.event_id}
    ground.check()
    afters = {other.stored.snapshot_after or 0 for other in others.values() if other is not None}
    if stored.event_id in ends:
        afters.add(after)
        head.depth = max(head.depth, stored.depth)
    head.extremities = tuple(sorted(ends.items(), key=lambda end: end[1]))
    if head.resolved_from != frozenset(afters) and afters != {head.snapshot}:
        _turn(ground, state_of_all(ground, sorted(afters)), entry, stripped_state)
        head.resolved_from = frozenset(afters)


def _built_on(ground: Ground, entry: RoomEvent, previous: Sequence[RoomEvent]) -> set[str]:
    """What the event builds on, directly or over events that do not stand."""
    found = set(entry.event.prev_event_ids)
    waiting = [each for each in previous if each.stored.flags & (REJECTED | SOFT_FAILED)]
    for _ in range(_LONGEST_WALK):
        if not waiting:
            break
        fallen = waiting.pop()
        fresh = [event_id for event_id in fallen.event.prev_event_ids if event_id not in found]
        found.update(fresh)
        below = [ground.event(event_id) for event_id in fresh]
        ground.check()
        waiting.extend(
            each for each in below if each is not None and each.stored.flags & (REJECTED | SOFT_FAILED)
        )
    return found


def _turn(ground: Ground, state: State, entry: RoomEvent, stripped_state: str | None) -> None:
    """Make the present state another, at the position of the newest event."""
    head, moving = ground.head, ground.moving
    if state.snapshot == head.snapshot:
        return
    present = ground.state(head.snapshot)
    added = ground.all_at(state.ordinals - present.ordinals)
    removed = ground.keys_at(present.ordinals - state.ordinals)
    kept = {key_of(each) for each in added}
    for key in removed.values():
        if key not in kept:
            moving.drop_state(key)
    for each in added:
        moving.move_state(each, stripped_state if each is entry else None)
    head.snapshot, head.snapshot_weight = state.snapshot, state.weight
