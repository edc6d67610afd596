# SPDX-License-Identifier: Apache-2.0
"""The two orderings of state resolution version 2: reverse topological power ordering and mainline ordering.

Both are total and depend only on the events and their auth events, never on the order they come in. Neither
recurses, and a circle of citations ends both.
"""

from collections.abc import Collection, Iterable, Iterator
from heapq import heapify, heappop, heappush

from homeserver.protocol.event_auth.room_state import CREATE, POWER_LEVELS
from homeserver.protocol.events import Event
from homeserver.protocol.power_levels import PowerLevels
from homeserver.protocol.state_resolution.source import EventSource


def reverse_topological_power_ordering(event_ids: Collection[str], source: EventSource) -> list[Event]:
    """Sort events so that each comes after those of its auth events that are among them; between events free
    to come next, first the one whose sender has more power, then the older, then the lesser id.

    Unknown events are left out, and so are events of a circle and those that cite them: no order is right for
    them, and none of them can ever have been authorized.
    """
    events = {event_id: event for event_id in event_ids if (event := source.event(event_id)) is not None}
    citing: dict[str, list[Event]] = {}
    open_citations: dict[str, int] = {}
    for event in events.values():
        cited = {auth_id for auth_id in event.auth_event_ids if auth_id in events}
        open_citations[event.event_id] = len(cited)
        for auth_id in cited:
            citing.setdefault(auth_id, []).append(event)

    def rank(event: Event) -> tuple[int, int, str]:
        return -_sender_level(event, source), event.origin_server_ts, event.event_id

    ready = [rank(events[event_id]) for event_id, count in open_citations.items() if not count]
    heapify(ready)
    ordered: list[Event] = []
    while ready:
        event = events[heappop(ready)[2]]
        ordered.append(event)
        for citer in citing.get(event.event_id, ()):
            open_citations[citer.event_id] -= 1
            if not open_citations[citer.event_id]:
                heappush(ready, rank(citer))
    return ordered


def mainline_ordering(
    event_ids: Iterable[str], power_levels_id: str | None, source: EventSource
) -> list[Event]:
    """Sort events by how far back from `power_levels_id`, along the power levels that each cites, the
    mainline is met (the farthest first), then by age, then by id. Unknown events are left out.
    """
    positions: dict[str, int | None] = {}
    if power_levels_id is not None:
        start = source.event(power_levels_id)
        for position, event in enumerate(_mainline(start, source)):
            positions[event.event_id] = position
    ranked: list[tuple[float, int, str, Event]] = []
    for event_id in event_ids:
        known = source.event(event_id)
        if known is None:
            continue
        found = _mainline_position(known, positions, source)
        # Farthest first; those that never meet the mainline before all others.
        rank = float("-inf") if found is None else float(-found)
        ranked.append((rank, known.origin_server_ts, known.event_id, known))
    ranked.sort(key=lambda entry: entry[:3])
    return [entry[3] for entry in ranked]


def _mainline(start: Event | None, source: EventSource) -> Iterator[Event]:
    """`start`, the power levels it cites, the ones those cite, and so on."""
    seen: set[str] = set()
    while start is not None and start.event_id not in seen:
        seen.add(start.event_id)
        yield start
        start = _cited_power_levels(start, source)


def _mainline_position(event: Event, positions: dict[str, int | None], source: EventSource) -> int | None:
    """Where the power levels that `event` goes back to meet the mainline; `None` if they never do.

    Remembers the answer for all power levels on the way in `positions`, so that many events cost one walk.
    """
    walked: list[str] = []
    found: int | None = None
    for power_levels in _mainline(_cited_power_levels(event, source), source):
        if power_levels.event_id in positions:
            found = positions[power_levels.event_id]
            break
        walked.append(power_levels.event_id)
    for event_id in walked:
        positions[event_id] = found
    return found


def _cited_power_levels(event: Event, source: EventSource) -> Event | None:
    return _cited(event, POWER_LEVELS, source)


def _cited(event: Event, key: tuple[str, str], source: EventSource) -> Event | None:
    for auth_id in event.auth_event_ids:
        cited = source.event(auth_id)
        if cited is not None and cited.type == key[0] and cited.state_key == key[1]:
            return cited
    return None


def _sender_level(event: Event, source: EventSource) -> int:
    """The sender's power by the event's own auth events; none without a create event to tell the creators."""
    create = create_event_for(event, source)
    if create is None:
        return 0
    return PowerLevels.of_events(_cited_power_levels(event, source), create).user_level(event.sender)


def create_event_for(event: Event, source: EventSource) -> Event | None:
    """The create event that `event` cites, or from version 12 the one its room id implies."""
    if event.room_version.create_in_auth_events:
        return _cited(event, CREATE, source)
    return source.event("$" + event.room_id[1:])
