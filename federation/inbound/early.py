# SPDX-License-Identifier: Apache-2.0
"""Events that came before this server was in their room: while it was joined, or knocked on, for longer than their
sender could be kept waiting.

They are kept like all that wait, within the same bounds, but apart: they were read by the version that whoever lets us
in said the room has, and by nobody's access control list. Owns what becomes of them once it is known what the room is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import orjson
from twisted.internet.task import deferLater

from federation.inbound.live_rooms import Arrivals, LiveRoom, LiveRooms
from federation.inbound.reading import PduReader
from homeserver.needs import Protocol
from homeserver.rooms.intake.incoming import Incoming
from storage.inbound_pdus import InboundPduStore, WaitingPdu

log = logging.getLogger(__name__)

_PORTION: Final = 50

UNHEARD: Final = 30.0
"""Seconds that early events are kept of a room that nobody is known to join: whoever does says so again by then."""


class Strays(Protocol):
    """Takes events of rooms that nobody here is in: the end of an invitation or a knock."""

    async def stray(self, origin: str, incoming: Incoming) -> bool:
        """Whether the event meant something here."""
        ...


class EarlyEvents:
    """One per process."""

    def __init__(
        self,
        scheduler: Any,
        *,
        store: InboundPduStore,
        rooms: LiveRooms,
        reader: PduReader,
        arrivals: Arrivals,
        strays: Strays,
        server_name: str,
    ) -> None:
        self._scheduler = scheduler
        self._store = store
        self._rooms = rooms
        self._reader = reader
        self._arrivals = arrivals
        self._strays = strays
        self._server_name = server_name

    async def settled(self, room_id: str) -> None:
        """Wait until this server is in the room, or is not about to be."""
        if await self._live(room_id) is not None:
            return
        if self._arrivals.version(room_id) is None and await self._store.early(room_id, 1):
            # Somebody knew of a join. To this process it may not have been said, or not yet.
            await deferLater(self._scheduler, UNHEARD)
        joining = self._arrivals.under_way(room_id)
        if joining is not None:
            await joining

    async def admit(self, room_id: str) -> None:
        """Have a room's early events wait as all others do, if it is the room's by now; otherwise they are dropped, and
        what it means at the door that some of them came is done.
        """
        while early := await self._store.early(room_id, _PORTION):
            room = await self._live(room_id)
            if room is not None:
                await self._admit(room, early)
            elif self._arrivals.under_way(room_id) is None:
                await self._dismiss(room_id, early)
            else:
                return

    async def _live(self, room_id: str) -> LiveRoom | None:
        room = await self._rooms.get(room_id)
        return room.head if room is not None and room.head.is_resident(self._server_name) else None

    async def _admit(self, room: LiveRoom, early: Sequence[WaitingPdu]) -> None:
        good = {incoming.event.event_id for _, incoming in await self._read(room, early)}
        await self._store.admit(room.room_id, sorted(good))
        others = [each.event_id for each in early if each.event_id not in good]
        if others:
            log.info("%d events that came early are none that %s takes", len(others), room.room_id)
            await self._store.drop(room.room_id, others)

    async def _dismiss(self, room_id: str, early: Sequence[WaitingPdu]) -> None:
        room = await self._rooms.get(room_id)
        if room is not None:
            for origin, incoming in await self._read(room.head, early):
                if incoming.event.type == "m.room.member":
                    await self._strays.stray(origin, incoming)
        await self._store.drop(room_id, [each.event_id for each in early])

    async def _read(self, room: LiveRoom, early: Sequence[WaitingPdu]) -> list[tuple[str, Incoming]]:
        """Those that the room lets be sent and that are what they were taken for, by the rules of its own version; and
        who sent them.
        """
        early = [each for each in early if room.server_acl.allows(each.origin)]
        pdus: list[dict[str, Any]] = [orjson.loads(each.pdu) for each in early]
        reads = await self._reader.read(room.version, pdus, room_id=room.room_id)
        return [
            (each.origin, read.incoming)
            for each, read in zip(early, reads, strict=True)
            if read.incoming is not None and (read.event_id, read.incoming.json) == (each.event_id, each.pdu)
        ]
