# SPDX-License-Identifier: Apache-2.0
"""Putting events in an order in which each comes after those it names. Owns nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from homeserver.protocol.events import Event
from homeserver.rooms.intake.incoming import Incoming

Names = Callable[[Event], Iterable[str]]


def by_auth(event: Event) -> Iterable[str]:
    """The events that allow it."""
    return event.auth_event_ids


def by_prev(event: Event) -> Iterable[str]:
    """The events before it, and those that allow it."""
    return (*event.prev_event_ids, *event.auth_event_ids)


def named_first(events: Mapping[str, Incoming], names: Names) -> tuple[list[Incoming], list[Incoming]]:
    """Those events ordered, and those that name each other in a circle or name one that does.

    Where ids are chosen by senders (room versions 1 and 2) circles can be made; no event in one can ever be allowed.
    Names of events that are not given count for nothing. Linear in names, no recursion.
    """
    waiting: dict[str, int] = {}
    naming: dict[str, list[str]] = {}
    for event_id, incoming in events.items():
        named = {name for name in names(incoming.event) if name in events}
        waiting[event_id] = len(named)
        for name in named:
            naming.setdefault(name, []).append(event_id)
    ready = [event_id for event_id, count in waiting.items() if not count]
    ready.sort(key=lambda event_id: events[event_id].event.depth, reverse=True)
    ordered: list[Incoming] = []
    while ready:
        event_id = ready.pop()
        ordered.append(events[event_id])
        del waiting[event_id]
        for each in naming.get(event_id, ()):
            waiting[each] -= 1
            if not waiting[each]:
                ready.append(each)
    return ordered, [events[event_id] for event_id in waiting]
