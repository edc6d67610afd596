# SPDX-License-Identifier: Apache-2.0
"""State resolution written a second time, straight from the specification's text and with no thought of speed.

Each function is one of the text's definitions, in its words. Only the authorization rules are shared with the
code under test. Where the text and all servers of the network differ it sides with the servers, in two places: a
state's full auth chain holds the state's own events, and version 2 follows the auth chains of power events within
the full conflicted set (version 2.1 follows them wherever they lead, as the text says).
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha1

from homeserver.protocol.event_auth import AuthError, auth_types_for, check_event_auth
from homeserver.protocol.events import Event
from homeserver.protocol.power_levels import PowerLevels
from homeserver.protocol.room_versions import StateResolution

Key = tuple[str, str]
State = Mapping[Key, str]
Events = Mapping[str, Event]
POWER_LEVELS = ("m.room.power_levels", "")


def resolve(events: Events, states: Sequence[State], algorithm: StateResolution) -> dict[Key, str]:
    if algorithm is StateResolution.V1:
        return resolve_v1(events, states)
    return resolve_v2(events, states, v2_1=algorithm is StateResolution.V2_1)


def cited(event: Event, events: Events) -> list[Event]:
    return [events[auth_id] for auth_id in event.auth_event_ids if auth_id in events]


def auth_chain(event: Event, events: Events) -> set[str]:
    chain: set[str] = set()
    level = cited(event, events)
    while level:
        chain |= {each.event_id for each in level}
        level = [below for each in level for below in cited(each, events) if below.event_id not in chain]
    return chain


def create_of(event: Event, events: Events) -> Event | None:
    if event.room_version.identifier == "12":
        return events.get("$" + event.room_id[1:])
    return next((each for each in cited(event, events) if each.type == "m.room.create"), None)


def cited_power_levels(event: Event, events: Events) -> Event | None:
    return next((each for each in cited(event, events) if each.state_tuple == POWER_LEVELS), None)


def is_power_event(event: Event) -> bool:
    if event.type in ("m.room.power_levels", "m.room.join_rules"):
        return True
    leaves = event.type == "m.room.member" and event.content["membership"] in ("leave", "ban")
    return leaves and event.sender != event.state_key


def resolve_v2(events: Events, states: Sequence[State], *, v2_1: bool) -> dict[Key, str]:
    keys = {key for state in states for key in state}
    unconflicted = {key: states[0][key] for key in keys if len({state.get(key) for state in states}) == 1}
    conflicted = {state[key] for state in states for key in state if key not in unconflicted}

    chains = [
        set(state.values()).union(*(auth_chain(events[each], events) for each in state.values()))
        for state in states
    ]
    auth_difference = set().union(*chains) - chains[0].intersection(*chains[1:])
    full = conflicted | auth_difference
    if v2_1:
        full |= {
            between
            for start in conflicted
            for between in auth_chain(events[start], events)
            if auth_chain(events[between], events) & conflicted or between in conflicted
        }

    power = {each for each in full if is_power_event(events[each])}
    if v2_1:
        power |= {below for each in power for below in auth_chain(events[each], events) & full}
    else:
        while more := {b for each in power for b in events[each].auth_event_ids if b in full} - power:
            power |= more
    ordered = reverse_topological_power_ordering(power, events, by_chain=v2_1)
    resolved: dict[Key, str] = iterative_auth_checks({} if v2_1 else unconflicted, ordered, events)
    remaining = mainline_ordering(full - power, resolved.get(POWER_LEVELS), events)
    return {**iterative_auth_checks(resolved, remaining, events), **unconflicted}


def reverse_topological_power_ordering(ids: set[str], events: Events, *, by_chain: bool) -> list[str]:
    def before(event_id: str) -> set[str]:
        event = events[event_id]
        return (auth_chain(event, events) if by_chain else set(event.auth_event_ids)) & ids

    def rank(event_id: str) -> tuple[int, int, str]:
        event = events[event_id]
        create = create_of(event, events)
        assert create is not None
        levels = PowerLevels.of_events(cited_power_levels(event, events), create)
        return -levels.user_level(event.sender), event.origin_server_ts, event_id

    ordered: list[str] = []
    while candidates := [each for each in ids - set(ordered) if before(each) <= set(ordered)]:
        ordered.append(min(candidates, key=rank))
    return ordered


def mainline(start: Event | None, events: Events) -> list[str]:
    line: list[str] = []
    while start is not None:
        line.append(start.event_id)
        start = cited_power_levels(start, events)
    return line


def mainline_ordering(ids: Iterable[str], power_levels_id: str | None, events: Events) -> list[str]:
    main = mainline(None if power_levels_id is None else events[power_levels_id], events)

    def rank(event_id: str) -> tuple[float, int, str]:
        event = events[event_id]
        own = mainline(cited_power_levels(event, events), events)
        position = next((float(main.index(each)) for each in own if each in main), float("inf"))
        return -position, event.origin_server_ts, event_id

    return sorted(ids, key=rank)


def iterative_auth_checks(start: State, ordered: Iterable[str], events: Events) -> dict[Key, str]:
    state = dict(start)
    for event_id in ordered:
        event = events[event_id]
        own = {each.state_tuple: each for each in cited(event, events)}
        room: dict[Key, Event] = {}
        for key in selection(event):
            if key in state:
                room[key] = events[state[key]]
            elif key in own:
                room[key] = own[key]
        if event.room_version.identifier == "12" and (create := create_of(event, events)) is not None:
            room["m.room.create", ""] = create
        if is_allowed(event, room):
            state[event.state_tuple] = event_id
    return state


def resolve_v1(events: Events, states: Sequence[State]) -> dict[Key, str]:
    by_key: dict[Key, set[str]] = {}
    for state in states:
        for key, event_id in state.items():
            by_key.setdefault(key, set()).add(event_id)
    result = {key: next(iter(ids)) for key, ids in by_key.items() if len(ids) == 1}
    conflicts = {key: ascending(ids, events) for key, ids in by_key.items() if len(ids) > 1}
    passes = ("m.room.power_levels", "m.room.join_rules", "m.room.member")
    for event_type in passes:
        found = {}
        for key, ordered in conflicts.items():
            if key[0] == event_type:
                found[key] = ordered[0]
                for event_id in ordered[1:]:
                    if not is_allowed(events[event_id], expand({**result, key: found[key]}, events)):
                        break
                    found[key] = event_id
        result.update(found)
    settled = dict(result)
    for key, ordered in conflicts.items():
        allowed = [each for each in ordered if is_allowed(events[each], expand(settled, events))]
        if key[0] not in passes:
            result[key] = allowed[-1] if allowed else ordered[0]
    return result


def ascending(ids: Iterable[str], events: Events) -> list[str]:
    """By ascending depth then descending sha1(event_id)."""
    return sorted(
        ids, key=lambda each: (events[each].depth, -int(sha1(each.encode()).hexdigest(), 16)), reverse=False
    )


def expand(state: State, events: Events) -> dict[Key, Event]:
    return {key: events[event_id] for key, event_id in state.items()}


def selection(event: Event) -> list[Key]:
    return auth_types_for(event.room_version, event.type, event.sender, event.state_key, event.content)


def is_allowed(event: Event, state: Mapping[Key, Event]) -> bool:
    try:
        check_event_auth(event, state)
    except AuthError:
        return False
    return True
