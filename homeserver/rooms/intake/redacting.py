# SPDX-License-Identifier: Apache-2.0
"""Redactions from outside, whichever comes first, they or what they strike.

Room versions 3+, "Handling redactions": a redaction stands by itself, and is applied once both are known and if its
sender may, by the state before it. One that came first is kept waiting with the same commit.
"""

from __future__ import annotations

from collections.abc import Iterable

from homeserver.events import RoomEvent
from homeserver.protocol.event_auth import redaction_applies
from homeserver.protocol.power_levels import PowerLevels
from homeserver.rooms.engine.head import host_of
from homeserver.rooms.engine.snapshots import NOTHING
from homeserver.rooms.intake.ground import CREATE, Ground
from homeserver.rooms.intake.resolving import POWER_LEVELS

LONGEST_ID = 255


def redact_target(ground: Ground, redaction: RoomEvent) -> None:
    """If the newest event is a redaction: strike its target, or have it wait for that. Raises Lacking."""
    target_id = redaction.event.redacts
    if target_id is None or not target_id.startswith("$") or "\0" in target_id:
        return
    if len(target_id.encode("utf-8", "surrogatepass")) > LONGEST_ID:
        return
    target = ground.event(target_id)
    ground.check()
    if target is None:
        ground.moving.rows.waiting.append({"redacts": target_id, "ordinal": redaction.stored.ordinal})
    elif target.stored.room == ground.head.room and _applies(ground, redaction, target):
        ground.moving.strike(target.stored, redaction)


def late_redactions(ground: Ground, target: RoomEvent) -> list[RoomEvent]:
    """The redactions of an event that came before it. Raises Lacking."""
    event_id = target.stored.event_id
    ordinals = list(ground.knowledge.awaiting(event_id).redactions)
    ground.check()
    ordinals.extend(row["ordinal"] for row in ground.moving.rows.waiting if row["redacts"] == event_id)
    return ground.all_at(ordinals)


def strike_late(ground: Ground, target: RoomEvent, redactions: Iterable[RoomEvent]) -> None:
    """Strike the newest event, if any of the redactions that waited for it may. Raises Lacking."""
    for redaction in redactions:
        if _applies(ground, redaction, target):
            ground.moving.strike(target.stored, redaction)
            return


def _applies(ground: Ground, redaction: RoomEvent, target: RoomEvent) -> bool:
    levels = _levels(ground, redaction.stored.snapshot or NOTHING.snapshot)
    if levels is None or not redaction_applies(redaction.event, target.event, levels):
        return False
    if redaction.stored.current_snapshot is not None:
        return True
    # It came as history, for which nobody asked whether the present allows it, as is asked of news (soft failure): who
    # has lost the power to redact could else send what they have dated back. What others redacted in time is told in
    # its redacted form.
    present = _levels(ground, ground.head.snapshot)
    sender = redaction.stored.sender
    return present is not None and (
        present.user_level(sender) >= present.redact or host_of(sender) == host_of(target.stored.sender)
    )


def _levels(ground: Ground, snapshot: int) -> PowerLevels | None:
    """The power levels of a state; None for one that cannot be. Raises Lacking."""
    state = ground.lens(snapshot).many((CREATE, POWER_LEVELS))
    create, levels = state.get(CREATE), state.get(POWER_LEVELS)
    if create is None:
        return None
    return PowerLevels.of_events(None if levels is None else levels.event, create.event)
