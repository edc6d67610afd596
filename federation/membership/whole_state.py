# SPDX-License-Identifier: Apache-2.0
"""The whole state of a room that was entered by a short answer, by one request where that is enough.

Nearly nothing of it is known here, so asking for the ids first (`/state_ids`) would only be one more answer to wait
for. Owns `GET /state` and what is believed of it; what is left to be had then, and from whom, is
`EventFetcher.fetch_state`'s. Server-server API, "Retrieving events".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from federation.client.answers import RoomState
from federation.client.errors import RemoteFailure
from federation.inbound.budgets import Budget
from federation.membership.joining import Reader, not_among
from homeserver.needs import Protocol
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.arrival.judging import Standing
from homeserver.rooms.arrival.standing import MEMBER
from homeserver.rooms.engine import Room
from homeserver.rooms.intake.incoming import Incoming
from storage.partial_rooms import PartialRoom

logger = logging.getLogger(__name__)


class StateCalls(Protocol):
    """The part of `FederationCalls` that is needed."""

    async def state(self, destination: str, room_id: str, event_id: str) -> RoomState: ...


class OutlierStore(Protocol):
    """Stores events without a place; `homeserver.rooms.arrival.outliers.Outliers` does."""

    async def take_in(
        self,
        room: int,
        room_id: str,
        version: RoomVersion,
        events: Sequence[Incoming],
        *,
        visibility: int,
        progress: Callable[[int], None] = ...,
    ) -> Mapping[str, Standing]: ...


class StateFetcher(Protocol):
    """Has the state before an event stored, whatever is missing of it; `EventFetcher` does."""

    async def fetch_state(
        self,
        room_id: str,
        version: RoomVersion,
        event_id: str,
        servers: Sequence[str],
        *,
        budget: Budget | None = None,
    ) -> list[str]: ...


class FetchedState(Struct, frozen=True):
    """A state of which everything is stored."""

    event_ids: Sequence[str]
    members: Mapping[int, Event] = field(default_factory=dict)
    """Member events of it that are at hand, by their ordinals."""


class WholeState:
    """Fetches states before joins. One per process."""

    def __init__(
        self, *, calls: StateCalls, reader: Reader, outliers: OutlierStore, fetcher: StateFetcher
    ) -> None:
        self._calls = calls
        self._reader = reader
        self._outliers = outliers
        self._fetcher = fetcher

    async def fetch(
        self, room: Room, entered: PartialRoom, servers: Sequence[str], budget: Budget
    ) -> FetchedState:
        """The state before the join, as the first of the servers tells it that tells a possible one.

        Raises what `EventFetcher.fetch_state` does.
        """
        if not entered.attempts:
            state = await self._at_once(room, entered.event_id, servers[0], budget)
            if state is not None:
                return state
        event_ids = await self._fetcher.fetch_state(
            room.room_id, room.head.version, entered.event_id, servers, budget=budget
        )
        return FetchedState(event_ids)

    async def _at_once(self, room: Room, event_id: str, server: str, budget: Budget) -> FetchedState | None:
        """None if something of the state could not be had so; what could is stored."""
        budget.spend(requests=1)
        try:
            told = await self._calls.state(server, room.room_id, event_id)
        except RemoteFailure as error:
            logger.info("%s does not tell the state at %s: %s", server, event_id, error)
            return None
        pdus: list[Mapping[str, Any]] = [*told.pdus, *not_among(told.auth_chain, told.pdus)]
        budget.spend(events=len(pdus))
        reads = await self._reader.read(room.head.version, pdus, room_id=room.room_id)
        good = [read.incoming for read in reads if read.incoming is not None]
        budget.spend(size=sum(len(incoming.json) for incoming in good))
        stand = await self._outliers.take_in(
            room.key,
            room.room_id,
            room.head.version,
            good,
            visibility=int(room.head.history_visibility),
        )
        state = [read.incoming for read in reads[: len(told.pdus)]]
        found = [incoming.event for incoming in state if incoming is not None]
        if len(found) < len(state) or not _is_possible(found) or not stand.keys() >= _ids(found):
            logger.info("%s tells a state at %s of which not everything is good", server, event_id)
            return None
        # As stored: where servers choose event ids, what was stored before counts.
        standings = [stand[event.event_id] for event in found if event.type == MEMBER]
        members = {standing.ordinal: standing.event for standing in standings}
        return FetchedState([event.event_id for event in found], members)


def _is_possible(state: Sequence[Event]) -> bool:
    """Whether it is one event for each place, and a room's."""
    places = {(event.type, event.state_key) for event in state}
    return (
        len(places) == len(state)
        and None not in {key for _, key in places}
        and (("m.room.create", "") in places)
    )


def _ids(events: Sequence[Event]) -> set[str]:
    return {event.event_id for event in events}
