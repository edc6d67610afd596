# SPDX-License-Identifier: Apache-2.0
"""Filling one gap: `GET /backfill` from server to server until one gives what leads back from it.

Owns what of an answer is believed: events that are named by what is known, each less deep than the one that names it.
Whatever else comes along was not asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from federation.client.calls import FederationCalls
from federation.client.errors import RemoteFailure, Unreachable
from federation.history.candidates import Candidates
from federation.history.placing import HistoryPlacer, Placing
from federation.inbound.budgets import Budget, OverBudget
from federation.inbound.reading import PduReader
from homeserver.needs import Protocol
from homeserver.protocol.canonical_json import MAX_INTEGER
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.engine import RoomHead
from homeserver.rooms.intake.incoming import Incoming
from storage.events import OUTLIER
from storage.inbound_pdus import KnownEvent

log = logging.getLogger(__name__)

LIMIT: Final = 100
"""Events asked for at once; what servers give at most."""
MOST_ANSWERED: Final = 200
"""Events of one answer that are looked at."""


class KnownEvents(Protocol):
    """Tells what is stored as the room's."""

    async def known(self, room_id: str, event_ids: Sequence[str]) -> Mapping[str, KnownEvent]: ...


class Backfiller:
    """One per process."""

    def __init__(
        self,
        *,
        calls: FederationCalls,
        reader: PduReader,
        placer: HistoryPlacer,
        known: KnownEvents,
        candidates: Candidates,
    ) -> None:
        self._calls = calls
        self._reader = reader
        self._placer = placer
        self._known = known
        self._candidates = candidates

    async def fill(self, head: RoomHead, missing: Mapping[str, int], budget: Budget) -> bool | None:
        """Have stored what leads back from missing events, given with the depth of what names them.

        Whether anything was; None if nothing was, and some server that might have had it could not be asked.
        """
        servers = self._candidates.of(head)
        unreachable = not servers
        for server in servers:
            try:
                events = await self._ask(server, head.room_id, head.version, missing, budget)
                if not events:
                    continue
                ahead = [server, *(name for name in servers if name != server)]
                placing = Placing(head.room_id, head.version, ahead, budget)
                if await self._placer.place(placing, events):
                    self._candidates.was_useful(head.room_id, server)
                    return True
            except RemoteFailure as error:
                log.info("no history of %s: %s", head.room_id, error)
                unreachable = unreachable or isinstance(error, Unreachable)
            except OverBudget as error:
                log.info("history of %s costs too much: %s", head.room_id, error)
                return await self._any_stored(head.room_id, missing)
        return None if unreachable else False

    async def _any_stored(self, room_id: str, event_ids: Iterable[str]) -> bool:
        return bool(await self._placed(room_id, list(event_ids)))

    async def _placed(self, room_id: str, event_ids: Sequence[str]) -> set[str]:
        known = await self._known.known(room_id, event_ids)
        return {event_id for event_id, event in known.items() if not event.flags & OUTLIER}

    async def _ask(
        self, server: str, room_id: str, version: RoomVersion, missing: Mapping[str, int], budget: Budget
    ) -> dict[str, Incoming]:
        """Good events that lead back from the missing ones and are not stored yet. Raises RemoteFailure, OverBudget."""
        budget.spend(requests=1)
        answer = await self._calls.backfill(server, room_id, list(missing), LIMIT)
        pdus = answer[:MOST_ANSWERED]
        budget.spend(events=len(pdus))
        unread: dict[str, Mapping[str, Any]] = {}
        for pdu, event_id in zip(pdus, await self._reader.event_ids(version, pdus), strict=True):
            if event_id is not None:
                unread.setdefault(event_id, pdu)
        for event_id in await self._placed(room_id, list(unread)):
            del unread[event_id]
        found: dict[str, Incoming] = {}
        for read in await self._reader.read(version, list(unread.values()), room_id=room_id):
            if read.incoming is not None:
                found[read.incoming.event.event_id] = read.incoming
            else:
                log.info("%s of the past of %s is refused: %s", read.event_id, room_id, read.refusal)
        budget.spend(size=sum(len(incoming.json) for incoming in found.values()))
        return leading_back(missing, found)


def leading_back(missing: Mapping[str, int], found: Mapping[str, Incoming]) -> dict[str, Incoming]:
    """Of the events found, those that missing ones (with the depth of what names them) lead to.

    What claims to be no less deep than what stands on it would be shown among the newest.
    """
    taken: dict[str, Incoming] = {}
    names = list(missing.items())
    while names:
        name, above = names.pop()
        incoming = found.get(name)
        if incoming is None or name in taken:
            continue
        depth = incoming.event.depth
        if depth >= above and above < MAX_INTEGER:
            continue
        taken[name] = incoming
        names.extend((prev, depth) for prev in incoming.event.prev_event_ids)
    return taken
