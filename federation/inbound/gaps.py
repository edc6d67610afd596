# SPDX-License-Identifier: Apache-2.0
"""Finding an event its place when events before it are not here.

Owns the order of the attempts: what waits here itself, `get_missing_events` back from the event, and for what is still
missing then the events just beyond the gap, each with the state before it (`state_ids`, `event`). What authorizes them
comes along with that state, or by `event_auth`. Everything is bounded by one `Budget`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import orjson
from msgspec.structs import replace

from federation.inbound.budgets import Budget
from federation.inbound.live_rooms import LiveRoom
from federation.inbound.missing import EventFetcher, KnownEvents, NotToBeHad
from federation.inbound.ordering import by_prev, named_first
from homeserver.needs import Protocol
from homeserver.protocol.events import Event
from homeserver.protocol.identifiers import domain_of
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from storage.events import OUTLIER
from storage.inbound_pdus import WaitingPdu

log = logging.getLogger(__name__)

STEPS: Final = 10
"""How often more is asked for between what is known and what came."""
STEP_LIMIT: Final = 50
"""Events asked for at once. Most servers give no more than 20."""
MOST_EVENTS: Final = 400
"""Events held on the way from a gap to the event; a longer one is left to be read backwards when somebody wants to."""
MOST_NAMED: Final = 20
"""Events named as where to begin and end a request."""


class GapIntake(Protocol):
    """What `homeserver.rooms.intake.RoomIntake` is asked to do here."""

    async def receive(self, room_id: str, events: Sequence[Incoming]) -> list[Verdict]: ...


class StoredEvents(KnownEvents, Protocol):
    """See `storage.inbound_pdus.InboundPduStore`."""

    async def history_begins(self, room_id: str, own_server: str) -> int: ...


class WaitingEvents(Protocol):
    """Events of the room that wait as well."""

    async def by_ids(self, room_id: str, event_ids: Sequence[str]) -> list[WaitingPdu]: ...


class GapFiller:
    """Does what one waiting event needs."""

    def __init__(
        self,
        *,
        fetcher: EventFetcher,
        intake: GapIntake,
        known: StoredEvents,
        waiting: WaitingEvents,
        server_name: str,
    ) -> None:
        self._fetcher = fetcher
        self._intake = intake
        self._known = known
        self._waiting = waiting
        self._server_name = server_name

    async def fill(
        self,
        room: LiveRoom,
        incoming: Incoming,
        servers: Sequence[str],
        budget: Budget,
        *,
        bridging: bool = True,
    ) -> Verdict:
        """What became of the event; MISSING where it still lacks something. Raises OverBudget, NotToBeHad.

        `servers` begin with who sent it. Not `bridging`: what lies between is waited for where that server, or the
        author's, could not be asked: others may give a state that spares it, and what it was is not looked for again.
        """
        begins = await self._known.history_begins(room.room_id, self._server_name)
        gap = _Gap(room, incoming, servers, budget, begins)
        await self._walk_back(gap)
        if not bridging and gap.unreached and await self._missing_prev(gap):
            raise NotToBeHad(f"what only {', '.join(sorted(gap.unreached))} may have, not reached now")
        await self._settle_edges(gap)
        await self._fetch_auth(gap)
        verdict = await self._receive(gap)
        if verdict.outcome is Outcome.MISSING and verdict.missing_auth:
            await self._fetch_auth(gap)
            verdict = await self._receive(gap)
        return verdict

    # Back from the event

    async def _walk_back(self, gap: _Gap) -> None:
        """Gather events until all that is before them is known, or nobody tells more."""
        for _ in range(STEPS):
            missing = await self._missing_prev(gap)
            if not missing or len(gap.events) >= MOST_EVENTS:
                return
            found = await self._held_here(gap, missing)
            if not found:
                told = await self._fetcher.fetch_between(
                    gap.room.room_id,
                    gap.room.version,
                    latest=gap.naming(missing)[:MOST_NAMED],
                    earliest=[event_id for event_id, _ in gap.room.extremities][:MOST_NAMED],
                    min_depth=gap.begins,
                    limit=STEP_LIMIT,
                    servers=gap.servers,
                    budget=gap.budget,
                )
                found = {incoming.event.event_id: incoming for incoming in told.events}
                gap.unreached = set() if found else told.unreached & gap.witnesses
            if not gap.take(found):
                return

    async def _held_here(self, gap: _Gap, missing: Collection[str]) -> dict[str, Incoming]:
        waiting = await self._waiting.by_ids(gap.room.room_id, list(missing))
        return {each.event_id: held(each, gap.room.version) for each in waiting}

    # Beyond the gap

    async def _settle_edges(self, gap: _Gap) -> None:
        """Have the events just beyond the gap stored, with the state before them as a server tells it.

        Where one cannot be had, or is older than what is known here, the events that name it are given the state before
        themselves: history is not news.
        """
        missing = await self._missing_prev(gap)
        if not missing:
            return
        room = gap.room
        beyond = await self._fetcher.fetch_events(
            room.room_id, room.version, missing, gap.servers, budget=gap.budget
        )
        for event_id, incoming in beyond.items():
            if incoming.event.depth >= gap.begins and await self._place(gap, incoming):
                missing.pop(event_id, None)
        for event_id in gap.naming(missing):
            gap.events[event_id] = await self._with_state(gap, gap.events[event_id])

    async def _place(self, gap: _Gap, incoming: Incoming) -> bool:
        """Whether an event beyond the gap is stored now."""
        try:
            placed = await self._with_state(gap, incoming)
        except NotToBeHad:
            return False
        await self._fetch_auth_of(gap, [placed])
        verdicts = await self._intake.receive(gap.room.room_id, [placed])
        return verdicts[0].outcome is not Outcome.MISSING

    async def _with_state(self, gap: _Gap, incoming: Incoming) -> Incoming:
        state = await self._fetcher.fetch_state(
            gap.room.room_id, gap.room.version, incoming.event.event_id, gap.servers, budget=gap.budget
        )
        return replace(incoming, state_before=state)

    # What authorizes

    async def _fetch_auth(self, gap: _Gap) -> None:
        await self._fetch_auth_of(gap, gap.events.values(), among=gap.events)

    async def _fetch_auth_of(
        self, gap: _Gap, events: Collection[Incoming], among: Collection[str] = ()
    ) -> None:
        """Have what authorizes the events stored, where it is neither here nor `among` those on the way."""
        room = gap.room
        names = {name for each in events for name in each.event.auth_event_ids if name not in among}
        missing = names.difference(await self._known.known(room.room_id, list(names)))
        for each in events:
            if missing.isdisjoint(each.event.auth_event_ids):
                continue
            try:
                stored = await self._fetcher.fetch_auth_chain(
                    room.room_id, room.version, each.event.event_id, gap.servers, budget=gap.budget
                )
            except NotToBeHad:
                break
            missing.difference_update(stored)
        if missing:
            fetched = await self._fetcher.fetch_events(
                room.room_id, room.version, missing, gap.servers, budget=gap.budget
            )
            await self._fetcher.store_outliers(
                room.room_id, room.version, fetched.values(), gap.servers, budget=gap.budget
            )

    # In the end

    async def _receive(self, gap: _Gap) -> Verdict:
        """Hand over everything that was gathered, parents first."""
        ordered, _ = named_first(gap.events, by_prev)
        verdicts = {
            verdict.event_id: verdict for verdict in await self._intake.receive(gap.room.room_id, ordered)
        }
        verdict = verdicts.get(gap.event_id)
        return verdict or Verdict(gap.event_id, Outcome.MISSING, "it comes before itself")

    async def _missing_prev(self, gap: _Gap) -> dict[str, None]:
        """The previous events that are not here. An outlier is as good as none: nobody knows the state after it."""
        names = gap.prev_beyond()
        known = await self._known.known(gap.room.room_id, list(names))
        return {name: None for name in names if name not in known or known[name].flags & OUTLIER}


class _Gap:
    """Where one filling stands: the event, and what was gathered before it."""

    def __init__(
        self, room: LiveRoom, incoming: Incoming, servers: Sequence[str], budget: Budget, begins: int
    ) -> None:
        self.room = room
        self.event_id = incoming.event.event_id
        self.events: dict[str, Incoming] = {self.event_id: incoming}
        self.servers = servers
        self.budget = budget
        self.begins = begins
        """The depth from which on the room is known here; what is less deep was before this server came to it."""
        self.witnesses = {*servers[:1], domain_of(incoming.event.sender)}
        """Who has what is before the event, if anybody has."""
        self.unreached: set[str] = set()
        """Those of them that could not be asked, while nobody else told anything."""

    def prev_beyond(self) -> dict[str, None]:
        """The previous events named by those gathered that are not among them."""
        return {
            name: None
            for incoming in self.events.values()
            if incoming.state_before is None
            for name in incoming.event.prev_event_ids
            if name not in self.events
        }

    def naming(self, missing: Collection[str]) -> list[str]:
        """Those gathered that name any of the missing."""
        wanted = set(missing)
        return [
            event_id
            for event_id, incoming in self.events.items()
            if not wanted.isdisjoint(incoming.event.prev_event_ids)
        ]

    def take(self, found: Mapping[str, Incoming]) -> bool:
        """Gather those events that lead back from what is here; whether there were any.

        What leads nowhere was not asked for.
        """
        before = len(self.events)
        names = list(self.prev_beyond())
        while names and len(self.events) < MOST_EVENTS:
            name = names.pop()
            incoming = found.get(name)
            if incoming is not None and name not in self.events and incoming.event.depth >= self.begins:
                self.events[name] = incoming
                names.extend(incoming.event.prev_event_ids)
        return len(self.events) > before


def held(waiting: WaitingPdu, version: RoomVersion) -> Incoming:
    """The event of a row, which was checked when it was stored."""
    return Incoming(Event.from_pdu(orjson.loads(waiting.pdu), version), waiting.pdu)
