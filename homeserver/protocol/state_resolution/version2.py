# SPDX-License-Identifier: Apache-2.0
"""State resolution versions 2 and 2.1 (rooms/v2 and rooms/v12, "State resolution"; MSC1442, MSC4297).

Version 2.1 differs in two places: the full conflicted set also holds the conflicted state subgraph, and the
first iterative auth checks start from an empty state.
"""

from collections.abc import Collection, Iterable

from homeserver.protocol.event_auth import AuthError, auth_types_for, check_event_auth
from homeserver.protocol.event_auth.room_state import CREATE, POWER_LEVELS
from homeserver.protocol.events import Event
from homeserver.protocol.state_resolution.conflicts import Conflicts, StateIds, StateKey
from homeserver.protocol.state_resolution.ordering import (
    create_event_for,
    mainline_ordering,
    reverse_topological_power_ordering,
)
from homeserver.protocol.state_resolution.source import EventSource


def resolve_conflicts(
    conflicts: Conflicts, state_sets: Iterable[StateIds], source: EventSource, *, v2_1: bool
) -> dict[StateKey, str]:
    """The resolved state. `state_sets` are the states that were separated into `conflicts`."""
    conflicted_ids = {event_id for event_ids in conflicts.conflicted.values() for event_id in event_ids}
    full = _full_conflicted_set(conflicts, conflicted_ids, state_sets, source, v2_1=v2_1)
    power = _power_events_and_auth(full, source)
    resolved: dict[StateKey, str] = {} if v2_1 else dict(conflicts.unconflicted)
    _iterative_auth_checks(reverse_topological_power_ordering(power, source), resolved, source)
    remaining = [event_id for event_id in full if event_id not in power]
    _iterative_auth_checks(mainline_ordering(remaining, resolved.get(POWER_LEVELS), source), resolved, source)
    resolved.update(conflicts.unconflicted)
    return resolved


def _full_conflicted_set(
    conflicts: Conflicts,
    conflicted_ids: set[str],
    state_sets: Iterable[StateIds],
    source: EventSource,
    *,
    v2_1: bool,
) -> set[str]:
    """The full conflicted set, less events that the source does not know or that are no state events.

    An unconflicted event is kept out of the auth difference, also where one state holds it without citing it and
    another cites it: the auth chain of a state counts as holding the state's own events. The text can be read to
    leave them out; all the network's implementations count them, and rooms hold together by computing the same.
    """
    per_state = [{state[key] for key in conflicts.conflicted if key in state} for state in state_sets]
    difference = source.auth_difference(per_state, conflicts.unconflicted.values())
    subgraph = set(source.conflicted_subgraph(conflicted_ids)) if v2_1 else set()
    full: set[str] = set()
    for event_id in conflicted_ids.union(subgraph, difference):
        event = source.event(event_id)
        if event is None or event.state_key is None:
            continue
        agreed = conflicts.unconflicted.get(event.state_tuple) == event_id
        if not agreed or event_id in subgraph:
            full.add(event_id)
    return full


def _power_events_and_auth(full: Collection[str], source: EventSource) -> set[str]:
    """The power events of the full conflicted set, and what of that set is in their auth chains.

    The chains are followed within the set. In version 2.1 nothing is missed by that: between two events of
    the set, every event on the way is in the auth difference or on a path between conflicted events. In
    version 2 an event can be missed whose only link leads through events that all states agree on; it is then
    ordered by the mainline. Following only the set is what the servers of the network compute, and the rooms
    of versions 2–11 hold together only while all compute the same.
    """
    found = {event_id for event_id in full if _is_power_event(source.event(event_id))}
    waiting = list(found)
    while waiting:
        event = source.event(waiting.pop())
        for auth_id in () if event is None else event.auth_event_ids:
            if auth_id in full and auth_id not in found:
                found.add(auth_id)
                waiting.append(auth_id)
    return found


def _is_power_event(event: Event | None) -> bool:
    if event is None or event.state_key is None:
        return False
    if event.type in ("m.room.power_levels", "m.room.join_rules"):
        return True
    return (
        event.type == "m.room.member"
        and event.sender != event.state_key
        and event.content.get("membership") in ("leave", "ban")
    )


def _iterative_auth_checks(
    events: Iterable[Event], resolved: dict[StateKey, str], source: EventSource
) -> None:
    """Apply to `resolved`, in their order, the events that the state so far allows."""
    for event in events:
        try:
            check_event_auth(event, _auth_state(event, resolved, source))
        except AuthError:
            continue
        resolved[event.state_tuple] = event.event_id


def _auth_state(event: Event, resolved: dict[StateKey, str], source: EventSource) -> dict[StateKey, Event]:
    """What the event is authorized against: the resolved state where it has the key, else the event's own
    auth event unless that was rejected.
    """
    state: dict[StateKey, Event] = {}
    for auth_id in event.auth_event_ids:
        cited = source.event(auth_id)
        if cited is not None and cited.state_key is not None and not source.is_rejected(auth_id):
            state[cited.state_tuple] = cited
    keys = auth_types_for(event.room_version, event.type, event.sender, event.state_key, event.content)
    for key in keys:
        if key in resolved and (known := source.event(resolved[key])) is not None:
            state[key] = known
    if not event.room_version.create_in_auth_events:
        create = create_event_for(event, source)
        if create is not None:
            state[CREATE] = create
    return state
