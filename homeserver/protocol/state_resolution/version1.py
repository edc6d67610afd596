# SPDX-License-Identifier: Apache-2.0
"""State resolution of room version 1: by type, then by depth (rooms/v1, "State resolution")."""

from collections.abc import Iterable
from hashlib import sha1
from typing import Final

from homeserver.protocol.event_auth import AuthError, auth_types_for, check_event_auth
from homeserver.protocol.event_auth.room_state import CREATE
from homeserver.protocol.events import Event
from homeserver.protocol.state_resolution.conflicts import Conflicts, StateKey
from homeserver.protocol.state_resolution.source import EventSource

# Each pass is authorized against what the passes before it have settled.
_AUTH_PASSES: Final = ("m.room.power_levels", "m.room.join_rules", "m.room.member")


def resolve_conflicts(conflicts: Conflicts, source: EventSource) -> dict[StateKey, str]:
    """The resolved state. Conflicted events that the source does not know are left out of consideration."""
    resolved = dict(conflicts.unconflicted)
    for event_type in _AUTH_PASSES:
        settled = {
            key: winner
            for key, event_ids in conflicts.conflicted.items()
            if key[0] == event_type
            and (winner := _last_of_chain(key, _known(event_ids, source), resolved, source)) is not None
        }
        resolved |= settled
    settled = {
        key: winner
        for key, event_ids in conflicts.conflicted.items()
        if key[0] not in _AUTH_PASSES
        and (winner := _deepest_allowed(_known(event_ids, source), resolved, source)) is not None
    }
    resolved |= settled
    return resolved


def _known(event_ids: Iterable[str], source: EventSource) -> list[Event]:
    """The events by ascending depth and, at the same depth, descending SHA-1 of the id."""
    events = [event for event_id in event_ids if (event := source.event(event_id)) is not None]
    events.sort(key=lambda event: sha1(event.event_id.encode(), usedforsecurity=False).digest(), reverse=True)
    events.sort(key=lambda event: event.depth)
    return events


def _last_of_chain(
    key: StateKey, events: list[Event], resolved: dict[StateKey, str], source: EventSource
) -> str | None:
    """The first event, replaced by the next as long as the next is allowed in the state with the one
    before.
    """
    if not events:
        return None
    winner = events[0].event_id
    for event in events[1:]:
        if not _allowed(event, {**_auth_state(event, resolved), key: winner}, source):
            break
        winner = event.event_id
    return winner


def _deepest_allowed(events: list[Event], resolved: dict[StateKey, str], source: EventSource) -> str | None:
    """The allowed event of greatest depth and, at the same depth, lowest SHA-1.

    The text does not say what becomes of a key with no allowed event. The network's implementations keep the
    last that they try, which is the first in the list.
    """
    for event in reversed(events):
        if _allowed(event, _auth_state(event, resolved), source):
            return event.event_id
    return events[0].event_id if events else None


def _auth_state(event: Event, resolved: dict[StateKey, str]) -> dict[StateKey, str]:
    keys = auth_types_for(event.room_version, event.type, event.sender, event.state_key, event.content)
    return {key: resolved[key] for key in (CREATE, *keys) if key in resolved}


def _allowed(event: Event, state: dict[StateKey, str], source: EventSource) -> bool:
    events = {key: found for key, event_id in state.items() if (found := source.event(event_id)) is not None}
    try:
        check_event_auth(event, events)
    except AuthError:
        return False
    return True
