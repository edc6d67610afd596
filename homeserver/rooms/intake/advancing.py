# SPDX-License-Identifier: Apache-2.0
"""The room moves on: its extremities once an event stands, and the present state, which all of them together make."""

from __future__ import annotations

from collections.abc import Sequence, Set

from homeserver.events import RoomEvent
from homeserver.rooms.engine.snapshots import State
from homeserver.rooms.intake.before import state_of_all
from homeserver.rooms.intake.ground import Ground, key_of
from homeserver.rooms.intake.resolving import resolve_states
from storage.events import OUTLIER, REJECTED, SOFT_FAILED

_LONGEST_WALK = 100
"""Events that do not stand, walked over to what they stood on: theirs are no extremities any more either."""


def builders(ground: Ground, entry: RoomEvent) -> list[RoomEvent]:
    """The events that stand, came before this one and build on it. Raises Lacking."""
    event_id = entry.stored.event_id
    ordinals = [ordinal for ordinal, _ in ground.knowledge.awaiting(event_id).children]
    ordinals.extend(row["ordinal"] for row in ground.moving.rows.gaps if row["missing_event_id"] == event_id)
    return [
        child
        for child in ground.all_at(ordinals)
        if not child.stored.flags & (REJECTED | SOFT_FAILED | OUTLIER)
    ]


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
    others = [ground.event(event_id) for event_id in ends]
    ground.check()
    afters = {other.stored.snapshot_after or 0 for other in others if other is not None}
    if not ends or not _is_contained(ground, entry, afters, after):
        ends[stored.event_id] = stored.ordinal
        afters.add(after)
    head.depth = max(head.depth, stored.depth)
    head.extremities = tuple(sorted(ends.items(), key=lambda end: end[1]))
    if head.resolved_from != frozenset(afters) and afters != {head.snapshot}:
        _turn(ground, state_of_all(ground, sorted(afters)), entry, stripped_state)
        head.resolved_from = frozenset(afters)


def _is_contained(ground: Ground, entry: RoomEvent, afters: Set[int], after: int) -> bool:
    """Whether what builds on the event was taken in before it, and holds all that it means for the state.

    The state before those was told by some server. If it left out what the event says, or what was before the event,
    that would be lost with it; so it must be the state after the event, or the room's ends say the same without it.
    """
    children = builders(ground, entry)
    if not children:
        return False
    event_id = entry.stored.event_id
    told = {child.stored.snapshot or 0 for child in children if child.event.prev_event_ids == (event_id,)}
    if after in afters or after in told:
        return True
    for snapshot in (*told, *afters, after, ground.head.snapshot):
        ground.want_state(snapshot)
    mine = ground.state(after)
    if any(ground.state(snapshot).ordinals == mine.ordinals for snapshot in told):
        return True
    states = [ground.state(snapshot) for snapshot in sorted(afters)]
    return resolve_states(ground, states) == resolve_states(ground, [*states, mine])


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
            each
            for each in below
            if each is not None
            and each.stored.room == ground.head.room
            and each.stored.flags & (REJECTED | SOFT_FAILED)
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
