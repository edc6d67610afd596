# SPDX-License-Identifier: Apache-2.0
"""Fetching events that this server lacks: single ones, authorization chains, the state at an event, what lies between.

Owns whom to ask, how many at once and how much altogether, and that everything that comes back is read by `PduReader`
and is what was asked for. Servers are tried in the order given; one that fails, or whose answer is of no use, is
followed by the next. Server-server API, "Backfilling and retrieving missing events", "Retrieving events", "Retrieving
event authorisation information".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from federation.client.calls import FederationCalls
from federation.client.errors import RemoteFailure, Unreachable
from federation.inbound.budgets import Budget
from federation.inbound.ordering import by_auth, named_first
from federation.inbound.parallel import in_parallel
from federation.inbound.reading import PduReader
from homeserver.needs import Protocol
from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.identifiers import check_event_id
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.intake.incoming import Incoming, Outcome, Verdict
from storage.events import REJECTED
from storage.inbound_pdus import KnownEvent

log = logging.getLogger(__name__)

SERVERS: Final = 3
"""Servers asked for one thing before it counts as not to be had."""
AT_ONCE: Final = 8
"""Requests for single events under way at once, to one server."""
WHOLE_STATE_FROM: Final = 100
"""Missing events of a state from which on the whole of it is asked for in one request, if that many are missing that
the most of the answer is not known here yet."""
OUTLIERS_AT_ONCE: Final = 500
KNOWN_AT_ONCE: Final = 10_000
ROUNDS: Final = 10
"""How often authorization events of authorization events are asked for one by one, before giving up."""
MOST_IDS: Final = 200_000
"""Ids in one answer that are looked at. The largest rooms have some 100,000 members."""


class OutlierIntake(Protocol):
    """What `homeserver.rooms.intake.RoomIntake` is asked to do here."""

    async def receive_outliers(
        self, room_id: str, version: RoomVersion, events: Sequence[Incoming]
    ) -> list[Verdict]: ...


class KnownEvents(Protocol):
    """Tells what is stored as the room's."""

    async def known(self, room_id: str, event_ids: Sequence[str]) -> Mapping[str, KnownEvent]: ...


class NotToBeHad(Exception):
    """No server that was asked gave it."""


class _Asking(Struct, frozen=True):
    """For the state at an event; the first of the servers told its ids."""

    room_id: str
    version: RoomVersion
    event_id: str
    servers: Sequence[str]
    budget: Budget


class Between(Struct, frozen=True):
    """What a server told to lie between events, and which servers could not be asked before it."""

    events: Sequence[Incoming]
    unreached: set[str]


class EventFetcher:
    """Fetches. Every method may be given a `budget` that goes on over several calls; without, each has its own.

    All raise OverBudget. `new_budget` makes the budget of a call that was given none.
    """

    def __init__(
        self,
        *,
        calls: FederationCalls,
        reader: PduReader,
        intake: OutlierIntake,
        known: KnownEvents,
        new_budget: Callable[[], Budget],
    ) -> None:
        self._calls = calls
        self._reader = reader
        self._intake = intake
        self._known = known
        self._new_budget = new_budget

    # Single events

    async def fetch_events(
        self,
        room_id: str,
        version: RoomVersion,
        event_ids: Iterable[str],
        servers: Sequence[str],
        *,
        budget: Budget | None = None,
    ) -> dict[str, Incoming]:
        """Those of the events that could be had, checked, not stored. Whether they are stored already is not asked."""
        budget = budget or self._new_budget()
        wanted = dict.fromkeys(_well_formed(event_ids))
        found: dict[str, Incoming] = {}
        for server in servers[:SERVERS]:
            if not wanted:
                break
            pdus = await self._single_events(server, list(wanted), budget)
            for incoming in await self._read(room_id, version, pdus, budget, only=wanted):
                found[incoming.event.event_id] = incoming
                wanted.pop(incoming.event.event_id, None)
        return found

    async def _single_events(
        self, server: str, event_ids: Sequence[str], budget: Budget
    ) -> list[dict[str, Any]]:
        pdus: list[dict[str, Any]] = []
        down: list[Unreachable] = []

        async def fetch(event_id: str) -> None:
            if down:
                return
            budget.spend(requests=1)
            try:
                pdus.append(await self._calls.event(server, event_id))
            except Unreachable as error:
                down.append(error)
            except RemoteFailure:
                pass

        await in_parallel(fetch, event_ids, AT_ONCE)
        return pdus

    # Authorization chains

    async def fetch_auth_chain(
        self,
        room_id: str,
        version: RoomVersion,
        event_id: str,
        servers: Sequence[str],
        *,
        budget: Budget | None = None,
    ) -> list[str]:
        """Have the authorization chain of an event stored here; gives the ids of what was stored for it.

        Raises NotToBeHad if nobody tells the chain.
        """
        budget = budget or self._new_budget()
        for server in servers[:SERVERS]:
            budget.spend(requests=1)
            try:
                chain = await self._calls.event_auth(server, room_id, event_id)
            except RemoteFailure as error:
                log.debug("no authorization chain of %s: %s", event_id, error)
                continue
            read = await self._read(room_id, version, chain, budget, unknown=True)
            return await self.store_outliers(room_id, version, read, _ahead(server, servers), budget=budget)
        raise NotToBeHad(f"the authorization chain of {event_id}")

    # State

    async def fetch_state(
        self,
        room_id: str,
        version: RoomVersion,
        event_id: str,
        servers: Sequence[str],
        *,
        budget: Budget | None = None,
    ) -> list[str]:
        """The ids of the state before an event, as a server tells it: all stored here, none of them rejected.

        What of it no server gives, or is not worth its name, is left out. Raises NotToBeHad if nobody tells a state
        that could be one: with its create event, and one event for each type and key.
        """
        budget = budget or self._new_budget()
        for server in servers[:SERVERS]:
            budget.spend(requests=1)
            try:
                told = await self._calls.state_ids(server, room_id, event_id)
            except RemoteFailure as error:
                log.debug("no state at %s: %s", event_id, error)
                continue
            if len(told.pdu_ids) + len(told.auth_chain_ids) > MOST_IDS:
                continue
            state_ids = list(dict.fromkeys(_well_formed(told.pdu_ids)))
            asking = _Asking(room_id, version, event_id, _ahead(server, servers), budget)
            await self._ensure_stored(asking, {*state_ids, *_well_formed(told.auth_chain_ids)})
            state = _state_of(state_ids, await self._stored(room_id, state_ids))
            if state is not None:
                return state
            log.info("%s told no possible state at %s", server, event_id)
        raise NotToBeHad(f"the state at {event_id}")

    async def _ensure_stored(self, asking: _Asking, needed: Collection[str]) -> None:
        """Have events of a state and its authorization chain stored, as far as they can be had."""
        room_id, version, servers, budget = asking.room_id, asking.version, asking.servers, asking.budget
        missing = await self._unknown(room_id, needed)
        if not missing:
            return
        read: list[Incoming] = []
        if len(missing) >= WHOLE_STATE_FROM and 2 * len(missing) > len(needed):
            read = await self._whole_state(asking, missing)
        had = {incoming.event.event_id for incoming in read}
        left = [each for each in missing if each not in had]
        fetched = await self.fetch_events(room_id, version, left, servers, budget=budget)
        await self.store_outliers(room_id, version, [*read, *fetched.values()], servers, budget=budget)

    async def _whole_state(self, asking: _Asking, missing: Collection[str]) -> list[Incoming]:
        asking.budget.spend(requests=1)
        try:
            told = await self._calls.state(asking.servers[0], asking.room_id, asking.event_id)
        except RemoteFailure:
            return []
        pdus = [*told.pdus, *told.auth_chain]
        return await self._read(asking.room_id, asking.version, pdus, asking.budget, only=missing)

    # Between

    async def fetch_between(
        self,
        room_id: str,
        version: RoomVersion,
        *,
        latest: Sequence[str],
        earliest: Sequence[str],
        min_depth: int,
        limit: int,
        servers: Sequence[str],
        budget: Budget | None = None,
    ) -> Between:
        """Events before `latest` that are not before `earliest`, at most `limit`, as the first server that knows any
        tells them; not stored. They may be anything of the room: the answer's order and relevance are its own.
        """
        budget = budget or self._new_budget()
        unreached: set[str] = set()
        for server in servers[:SERVERS]:
            budget.spend(requests=1)
            try:
                pdus = await self._calls.get_missing_events(
                    server, room_id, earliest=earliest, latest=latest, limit=limit, min_depth=min_depth
                )
            except RemoteFailure as error:
                log.debug("no missing events of %s: %s", room_id, error)
                if isinstance(error, Unreachable):
                    unreached.add(server)
                continue
            read = await self._read(room_id, version, pdus[:limit], budget)
            if read:
                return Between(read, unreached)
        return Between((), unreached)

    # Storing

    async def store_outliers(
        self,
        room_id: str,
        version: RoomVersion,
        events: Iterable[Incoming],
        servers: Sequence[str],
        *,
        budget: Budget,
    ) -> list[str]:
        """Store events whose place is not known, and what they need to be authorized, fetched where it is not here.

        Gives the ids that are stored now, rejected ones among them.
        """
        waiting = {incoming.event.event_id: incoming for incoming in events}
        stored: list[str] = []
        asked: set[str] = set(waiting)
        for _ in range(ROUNDS):
            missing = await self._store_round(room_id, version, waiting, stored)
            wanted = [event_id for event_id in missing if event_id not in asked]
            if not wanted:
                break
            asked.update(wanted)
            fetched = await self.fetch_events(room_id, version, wanted, servers, budget=budget)
            if not fetched:
                break
            waiting.update(fetched)
        if waiting:
            log.info("%d events of %s lack what would allow them", len(waiting), room_id)
        return stored

    async def _store_round(
        self, room_id: str, version: RoomVersion, waiting: dict[str, Incoming], stored: list[str]
    ) -> dict[str, None]:
        """One pass over those that wait; what got stored leaves `waiting`. Gives the ids that the rest lacks."""
        ordered, circular = named_first(waiting, by_auth)
        for incoming in circular:
            del waiting[incoming.event.event_id]
        missing: dict[str, None] = {}
        for start in range(0, len(ordered), OUTLIERS_AT_ONCE):
            portion = ordered[start : start + OUTLIERS_AT_ONCE]
            for verdict in await self._intake.receive_outliers(room_id, version, portion):
                if verdict.outcome is Outcome.MISSING:
                    missing.update(dict.fromkeys(verdict.missing_auth))
                else:
                    stored.append(verdict.event_id)
                    waiting.pop(verdict.event_id, None)
        return {event_id: None for event_id in missing if event_id not in waiting}

    # Reading

    async def _read(
        self,
        room_id: str,
        version: RoomVersion,
        pdus: Sequence[Mapping[str, Any]],
        budget: Budget,
        *,
        only: Collection[str] | None = None,
        unknown: bool = False,
    ) -> list[Incoming]:
        """Those PDUs that are good events of the room, each once.

        `only`: those of these ids; `unknown`: those that are not stored yet.
        """
        budget.spend(events=len(pdus))
        unread: dict[str, Mapping[str, Any]] = {}
        for pdu, event_id in zip(pdus, await self._reader.event_ids(version, pdus), strict=True):
            if event_id is not None and (only is None or event_id in only):
                unread.setdefault(event_id, pdu)
        if unknown:
            unread = {event_id: unread[event_id] for event_id in await self._unknown(room_id, unread)}
        reads = await self._reader.read(version, list(unread.values()), room_id=room_id)
        refused = [read for read in reads if read.incoming is None]
        if refused:
            log.info(
                "%d of %d fetched events of %s were refused, the first (%s) because %s",
                len(refused),
                len(reads),
                room_id,
                refused[0].event_id,
                refused[0].refusal,
            )
        found = [read.incoming for read in reads if read.incoming is not None]
        budget.spend(size=sum(len(incoming.json) for incoming in found))
        return found

    async def _unknown(self, room_id: str, event_ids: Iterable[str]) -> dict[str, None]:
        """Those of the ids that are not stored as the room's, in their order."""
        ids = list(dict.fromkeys(event_ids))
        known = await self._stored(room_id, ids)
        return {event_id: None for event_id in ids if event_id not in known}

    async def _stored(self, room_id: str, event_ids: Sequence[str]) -> dict[str, KnownEvent]:
        found: dict[str, KnownEvent] = {}
        for start in range(0, len(event_ids), KNOWN_AT_ONCE):
            found.update(await self._known.known(room_id, event_ids[start : start + KNOWN_AT_ONCE]))
        return found


def _ahead(first: str, servers: Sequence[str]) -> list[str]:
    return [first, *(server for server in servers if server != first)]


def _state_of(state_ids: Sequence[str], known: Mapping[str, KnownEvent]) -> list[str] | None:
    """The usable ones of the events said to be a state; None if it cannot be one."""
    places: dict[tuple[str, str], str] = {}
    for event_id in state_ids:
        event = known.get(event_id)
        if event is None or event.flags & REJECTED or event.state_key is None:
            continue
        if places.setdefault((event.type, event.state_key), event_id) != event_id:
            return None
    return list(places.values()) if ("m.room.create", "") in places else None


def _well_formed(event_ids: Iterable[str]) -> Iterable[str]:
    """Leave out what is no event id, and could not even be asked for."""
    for event_id in event_ids:
        try:
            check_event_id(event_id)
        except IdentifierError:
            continue
        if "\0" not in event_id:
            yield event_id
