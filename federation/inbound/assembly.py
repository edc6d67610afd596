# SPDX-License-Identifier: Apache-2.0
"""Everything of this package put together, once per process: what the server builds, starts and stops."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Self

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from federation.client.calls import FederationCalls
from federation.inbound.backlog import Backlog
from federation.inbound.budgets import Budget, OriginCosts
from federation.inbound.early import EarlyEvents, Strays
from federation.inbound.edus import EduDispatcher, EduHandlers
from federation.inbound.gaps import GapFiller, GapIntake
from federation.inbound.live_rooms import Arrivals, LiveRooms
from federation.inbound.missing import EventFetcher, OutlierIntake
from federation.inbound.reading import PduReader
from federation.inbound.rooms import InboundRooms
from federation.inbound.transactions import InboundTransactions
from homeserver.needs import Protocol
from storage.database import Database
from storage.inbound_pdus import InboundPduStore
from storage.inbound_transactions import InboundTransactionStore

log = logging.getLogger(__name__)

FORGET_AFTER: Final = 24 * 3600.0
"""Seconds that the answer to a transaction is kept at most."""
SWEEP_EVERY: Final = 3600.0


class Intake(GapIntake, OutlierIntake, Protocol):
    """See `homeserver.rooms.intake.RoomIntake`."""


def new_fetcher(
    reactor: Any, *, database: Database, calls: FederationCalls, reader: PduReader, intake: OutlierIntake
) -> EventFetcher:
    """For whoever fetches events: joins, history, what waits. Each call has a budget of its own unless given one."""
    return EventFetcher(
        calls=calls,
        reader=reader,
        intake=intake,
        known=InboundPduStore(database),
        new_budget=lambda: Budget(reactor.seconds),
    )


class Inbound(Struct, frozen=True):
    """Built by `build`; `start` it when all is built, `stop` it before what it stands on."""

    transactions: InboundTransactions
    backlog: Backlog
    _sweeping: LoopingCall

    @classmethod
    def build(
        cls,
        reactor: Any,
        *,
        database: Database,
        rooms: LiveRooms,
        intake: Intake,
        reader: PduReader,
        fetcher: EventFetcher,
        arrivals: Arrivals,
        strays: Strays,
        costs: OriginCosts,
        edu_handlers: EduHandlers,
        server_name: str,
        worker: str,
    ) -> Self:
        """`worker` names this process among those on the database."""
        pdus, transactions = InboundPduStore(database), InboundTransactionStore(database)
        backlog = Backlog(
            reactor,
            store=pdus,
            filler=GapFiller(
                fetcher=fetcher, intake=intake, known=pdus, waiting=pdus, server_name=server_name
            ),
            early=EarlyEvents(
                reactor,
                store=pdus,
                rooms=rooms,
                reader=reader,
                arrivals=arrivals,
                strays=strays,
                server_name=server_name,
            ),
            rooms=rooms,
            costs=costs,
            new_budget=lambda: Budget(reactor.seconds),
            server_name=server_name,
            worker=worker,
        )
        inbound_rooms = InboundRooms(
            reactor,
            rooms=rooms,
            reader=reader,
            intake=intake,
            backlog=backlog,
            arrivals=arrivals,
            strays=strays,
            server_name=server_name,
        )
        edus = EduDispatcher(reactor, handlers=edu_handlers, rooms=rooms)
        sweeping: LoopingCall = LoopingCall(_swept(transactions))
        sweeping.clock = reactor
        return cls(
            InboundTransactions(store=transactions, rooms=inbound_rooms, edus=edus),
            backlog,
            sweeping,
        )

    def start(self) -> None:
        """Take up what waits."""
        self.backlog.start()
        self._sweeping.start(SWEEP_EVERY)

    async def stop(self) -> None:
        """Leave what is under way to the next run, or to other processes."""
        if self._sweeping.running:
            self._sweeping.stop()
        await self.transactions.stop()
        await self.backlog.stop()


def _swept(store: InboundTransactionStore) -> Callable[[], Awaitable[None]]:
    async def sweep() -> None:
        try:
            await store.sweep(FORGET_AFTER)
        except Exception:
            log.exception("forgetting old transactions failed; it is tried again")

    return lambda: Deferred.fromCoroutine(sweep())
