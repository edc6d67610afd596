# SPDX-License-Identifier: Apache-2.0
"""What events of limited timelines add up to with their children.

Client-server API, "Aggregations of child events": a client that is not sent every event cannot add up by itself, one
that is can. A child happened after its parent, and a timeline knows all that happened after its start: it shows without
a query which of its events have children. For those, one query serves all rooms, and one more if there are threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from homeserver.events import RoomEvent
from homeserver.events.rendering import Reader
from homeserver.protocol.relations import relation_of
from homeserver.rooms.access import Sight
from homeserver.rooms.reading.aggregations import Aggregations, Shown
from homeserver.sync.joined import JoinedUpdate
from homeserver.sync.left import LeftUpdate
from homeserver.sync.request import Window
from homeserver.sync.timeline import Timeline

_MARK = '"m.relates_to"'
"""Not in the PDU of an event without a relation: spares parsing it."""


class TimelineBundles:
    """One per process."""

    def __init__(self, aggregations: Aggregations) -> None:
        self._aggregations = aggregations

    async def of(
        self, window: Window, joined: Iterable[JoinedUpdate], left: Sequence[LeftUpdate], reader: Reader
    ) -> Mapping[str, bytes]:
        """By event id the value of `m.relations`, as of the window's end, for those that have any."""
        shown: list[Shown] = []
        for update in joined:
            parents = _parents(update.timeline)
            if parents:
                shown.append(_joined(window, update, parents))
        for leave in left:
            parents = _parents(leave.timeline)
            if parents:
                shown.append(_left(leave, parents))
        if not shown:
            return {}
        return await self._aggregations.of(shown, reader, window.ignored, room_id=False)


def _parents(timeline: Timeline) -> list[RoomEvent]:
    """Events of a limited timeline that others relate to."""
    if not timeline.limited:
        return []
    named: set[str] = set()
    for entry in timeline.happened:
        if _MARK in entry.stored.pdu:
            relation = relation_of(entry.event.content)
            if relation is not None:
                named.add(relation.event_id)
    return [entry for entry in timeline.events if entry.stored.event_id in named] if named else []


def _joined(window: Window, update: JoinedUpdate, parents: Sequence[RoomEvent]) -> Shown:
    past, joined_at = update.past, update.placement.joined_at

    def of_the_stay(child: RoomEvent) -> bool:
        return child.stored.position >= joined_at

    may_see = past.may_see if isinstance(past, Sight) else of_the_stay
    return Shown(update.timeline.room, parents, past, may_see, window.upto)


def _left(update: LeftUpdate, parents: Sequence[RoomEvent]) -> Shown:
    past = update.past
    return Shown(update.timeline.room, parents, past, past.may_see, update.placement.joined_until or 0)
