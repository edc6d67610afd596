# SPDX-License-Identifier: Apache-2.0
"""What goes into a server's next transaction: what it missed, or else what is new, then what is kept, then the rest."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from federation.outbound.lane import Lane
from federation.outbound.transaction import MOST_EDUS, MOST_PDUS, Edu, Item, Pdu, weight
from homeserver.needs import Protocol
from storage.outbound import OutboundEvent, Place
from storage.outgoing_edus import FirstEdus

MISSED_PORTION = 500
USUAL_BYTES = 8192
"""An event that was missed is taken to have no more, until it is read."""


class MissedEvents(Protocol):
    """What is needed of `storage.outbound.OutboundStore`."""

    async def missed(self, server_name: str, after: int, upto: int, limit: int) -> list[Place]: ...
    async def at(self, places: Sequence[Place]) -> list[OutboundEvent]: ...


class KeptEdus(Protocol):
    """What is needed of `storage.outgoing_edus.OutgoingEduStore`."""

    async def first(self, server_name: str, limit: int, most_bytes: int) -> FirstEdus: ...
    async def remove(self, server_name: str, ids: Sequence[int]) -> None: ...


class Load(Struct):
    """Events, then ephemeral units."""

    events: list[Pdu] = field(default_factory=list)
    missed: bool = False
    """The events are the first of the lane's `places`, not of its `pdus`."""
    edus: list[Edu] = field(default_factory=list)
    more_kept: bool = False

    @property
    def items(self) -> list[Item]:
        return [*self.events, *self.edus]

    @property
    def weight(self) -> int:
        """About how many bytes it takes besides what its lane holds."""
        return sum(map(weight, self.items if self.missed else self.edus))

    @property
    def kept_ids(self) -> list[int]:
        return [edu.kept for edu in self.edus if edu.kept]

    def arrived(self, count: int) -> tuple[int, list[int]]:
        """Of the first so many items: how many are events, and the ids of the kept units."""
        events = min(count, len(self.events))
        return events, [edu.kept for edu in self.edus[: count - events] if edu.kept]


class Loader:
    """One per process."""

    def __init__(self, *, events: MissedEvents, edus: KeptEdus) -> None:
        self._events = events
        self._edus = edus

    async def load(self, lane: Lane, *, kept: bool, room: int) -> Load:
        """The next load of a lane; empty if nothing waits. `kept`: look for kept units. `room`: how many bytes it may
        have at most, unless a single item has more."""
        load = Load()
        if lane.behind is not None:
            load.missed = True
            load.events = await self._missed(lane, room)
            room -= sum(map(weight, load.events))
        if not load.events and lane.behind is None:
            load.missed = False
            room = lane.begin_sending(room)
            load.events = list(lane.sending)
        if kept:
            waiting, load.more_kept = await self._edus.first(lane.name, MOST_EDUS, max(room, 1))
            for each in waiting:
                if room < len(each.content) and (load.events or load.edus):
                    load.more_kept = True
                    break
                room -= len(each.content)
                load.edus.append(Edu(each.edu_type, each.content, each.id))
        while lane.fleeting and len(load.edus) < MOST_EDUS and (room > 0 or not load.items):
            edu = lane.next_fleeting()
            room -= weight(edu)
            load.edus.append(edu)
        return load

    async def forget(self, name: str, kept: Sequence[int]) -> None:
        """These units arrived."""
        await self._edus.remove(name, kept)

    async def _missed(self, lane: Lane, room: int) -> list[Pdu]:
        """The next events that the server missed; none if it missed none any more, or the lane forgot its goal."""
        while lane.behind is not None and not lane.places:
            if lane.goal is None:
                return []
            goal = lane.goal
            portion = MISSED_PORTION if lane.has_room else MOST_PDUS
            places = await self._events.missed(lane.name, lane.behind, goal, portion)
            if lane.goal != goal:  # too much came meanwhile; begin again
                return []
            lane.found(places, all_of_them=len(places) < portion)
            if not places:
                lane.caught_up_with(0)
        most = min(MOST_PDUS, max(1, room // USUAL_BYTES))
        wanted = [lane.places[n] for n in range(min(most, len(lane.places)))]
        if not wanted:
            return []
        stored = {(each.room, each.position): each for each in await self._events.at(wanted)}
        events: list[Pdu] = []
        for place in wanted:
            event = stored[place.room, place.position]
            pdu = Pdu(event.position, event.event_id, event.pdu)
            room -= weight(pdu)
            if events and room < 0:
                break
            events.append(pdu)
        return events
