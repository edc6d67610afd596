# SPDX-License-Identifier: Apache-2.0
"""Who leaves a Matrix room, or is removed from it, is removed from its calls (MSC4195, security considerations).

LiveKit's tokens cannot be taken back, so whoever was let in and is no longer joined is looked for until no token of
theirs can be good. Does not own the tickets (`admission`).
"""

from __future__ import annotations

import logging
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList

from homeserver.calls.rtc.tokens import JOIN_LIFETIME
from homeserver.errors import RemoteServerFailed
from homeserver.needs import Protocol
from storage.livekit_tickets import LiveKitTicketStore, LostTicket

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
PAUSE_MS: Final = 15_000
"""How often the same participant is looked for."""
AT_ONCE: Final = 20
KEPT_MS: Final = 7 * 86_400_000
"""No call lasts longer than that."""
_SWEEP_SECONDS: Final = 3600.0
_DEAD_MS: Final = 2 * JOIN_LIFETIME * 1000
"""Nobody can come back by a token they had then: those that LiveKit renews live for minutes."""


class Participants(Protocol):
    """What is needed of `sfu.LiveKitRooms`."""

    async def remove(self, room: str, identity: str) -> bool: ...


class Removal:
    """Runs between `start` and `stop`."""

    def __init__(
        self, *, scheduler: Any, server_name: str, store: LiveKitTicketStore, participants: Participants
    ) -> None:
        """`scheduler` has `callLater` and `seconds`, as the reactor."""
        self._scheduler = scheduler
        self._server_name = server_name
        self._store = store
        self._participants = participants
        self._running = False
        self._call: Any = None
        self._round: Deferred[None] | None = None
        self._swept = 0.0

    def start(self) -> None:
        """Begin to look."""
        self._running = True
        self._set(LOOK_SECONDS)

    async def stop(self) -> None:
        """Look no longer, and wait for the round that is under way."""
        self._running = False
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._round is not None:
            await self._round

    async def look(self) -> int:
        """One round; how many people it was about."""
        lost = await self._store.take_lost(self._server_name, AT_ONCE, PAUSE_MS)
        if not lost:
            return 0
        over: list[LostTicket] = []
        await DeferredList(
            [Deferred.fromCoroutine(self._remove(ticket, over)) for ticket in lost], consumeErrors=True
        )
        if over:
            await self._store.drop(over)
        return len(lost)

    async def _remove(self, ticket: LostTicket, over: list[LostTicket]) -> None:
        try:
            removed = await self._participants.remove(ticket.livekit_room, ticket.identity)
        except RemoteServerFailed:
            return  # tried again after the pause
        if not removed and ticket.lost_ms > _DEAD_MS:
            over.append(ticket)

    def _set(self, seconds: float) -> None:
        if self._running:
            self._call = self._scheduler.callLater(seconds, self._begin)

    def _begin(self) -> None:
        self._round = Deferred.fromCoroutine(self._go())

    async def _go(self) -> None:
        full = False
        try:
            full = await self.look() >= AT_ONCE
            if self._scheduler.seconds() - self._swept > _SWEEP_SECONDS:
                self._swept = self._scheduler.seconds()
                await self._store.sweep(KEPT_MS)
        except Exception:
            logger.exception("those who left their rooms could not be removed from calls")
        self._round = None
        self._set(0.0 if full else LOOK_SECONDS)
