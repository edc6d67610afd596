# SPDX-License-Identifier: Apache-2.0
"""Getting events of the past their place: what authorizes them and the state before them had, then stored.

Owns what is fetched for that. Upwards from an event whose state is known, and downwards over messages, the room finds
the states itself (`RoomIntake.receive_history`), so that of a page of history at most the lowest needs to be told.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from federation.inbound.budgets import Budget
from federation.inbound.missing import EventFetcher, NotToBeHad
from homeserver.needs import Protocol
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict

log = logging.getLogger(__name__)

ROUNDS: Final = 6
MOST_STATES: Final = 5
"""States asked for on behalf of one page: for the ends of so many branches."""


class HistoryIntake(Protocol):
    """What `homeserver.rooms.intake.RoomIntake` is asked to do here."""

    async def receive_history(self, room_id: str, events: Sequence[Incoming]) -> list[Verdict]: ...


class Placing(Struct, frozen=True):
    """For one room: whom to ask, the likeliest to know first, and what it may cost."""

    room_id: str
    version: RoomVersion
    servers: Sequence[str]
    budget: Budget


class HistoryPlacer:
    """Stores history. One per process."""

    def __init__(self, *, fetcher: EventFetcher, intake: HistoryIntake) -> None:
        self._fetcher = fetcher
        self._intake = intake

    async def place(self, placing: Placing, events: Mapping[str, Incoming]) -> set[str]:
        """Store those of the events that can be; the ids of those that are stored now (rejected ones among them).

        Raises OverBudget; what had been stored by then stays.
        """
        waiting = dict(events)
        stored: set[str] = set()
        asked: set[str] = set()
        for _ in range(ROUNDS):
            verdicts = await self._intake.receive_history(placing.room_id, list(waiting.values()))
            missing = [verdict for verdict in verdicts if verdict.outcome is Outcome.MISSING]
            for verdict in verdicts:
                if verdict.outcome is not Outcome.MISSING:
                    stored.add(verdict.event_id)
                    waiting.pop(verdict.event_id, None)
            if not waiting or not await self._supply(placing, waiting, missing, asked):
                break
        if waiting:
            log.info("%d events of the past of %s did not find their place", len(waiting), placing.room_id)
        return stored

    async def _supply(
        self, placing: Placing, waiting: dict[str, Incoming], missing: Sequence[Verdict], asked: set[str]
    ) -> bool:
        """Have something fetched that the waiting events lack; whether there was anything not asked for before."""
        states = await self._supply_states(placing, waiting, missing, asked)
        grants = await self._supply_grants(placing, waiting, missing, asked)
        return states or grants

    async def _supply_states(
        self, placing: Placing, waiting: dict[str, Incoming], missing: Sequence[Verdict], asked: set[str]
    ) -> bool:
        """The states before the lowest of the waiting events."""
        ends = [
            verdict.event_id
            for verdict in missing
            if verdict.missing_prev
            and waiting[verdict.event_id].state_before is None
            and verdict.event_id not in asked
            and not any(name in waiting for name in verdict.missing_prev)
        ]
        ends.sort(key=lambda event_id: waiting[event_id].event.depth)
        for event_id in ends[:MOST_STATES]:
            asked.add(event_id)
            try:
                state = await self._fetcher.fetch_state(
                    placing.room_id, placing.version, event_id, placing.servers, budget=placing.budget
                )
            except NotToBeHad:
                continue
            waiting[event_id] = replace(waiting[event_id], state_before=state)
        return bool(ends)

    async def _supply_grants(
        self, placing: Placing, waiting: dict[str, Incoming], missing: Sequence[Verdict], asked: set[str]
    ) -> bool:
        """What authorizes the waiting events: the whole chain of the newest, then what the others cite besides."""
        lacking = [
            verdict
            for verdict in missing
            if any(name not in waiting and name not in asked for name in verdict.missing_auth)
        ]
        if not lacking:
            return False
        names = {name for verdict in lacking for name in verdict.missing_auth if name not in waiting}
        names -= asked
        asked |= names
        newest = max(lacking, key=lambda verdict: waiting[verdict.event_id].event.depth)
        try:
            stored = await self._fetcher.fetch_auth_chain(
                placing.room_id, placing.version, newest.event_id, placing.servers, budget=placing.budget
            )
        except NotToBeHad:
            stored = []
        names.difference_update(stored)
        if names:
            fetched = await self._fetcher.fetch_events(
                placing.room_id, placing.version, names, placing.servers, budget=placing.budget
            )
            await self._fetcher.store_outliers(
                placing.room_id, placing.version, fetched.values(), placing.servers, budget=placing.budget
            )
        return True
