# SPDX-License-Identifier: Apache-2.0
"""Events of rooms that nobody here is in: how a user hears that an invitation was taken back or a knock turned down.

Owns which of such events are believed. The room's state is not known here, so they cannot be authorized as others are:
an invitation ends by its own sender, a knock by somebody who saw it.
"""

from __future__ import annotations

from homeserver.needs import Protocol
from homeserver.protocol.identifiers import domain_of
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.engine import RoomCache
from homeserver.rooms.intake.incoming import Incoming
from storage.events import EventStore


class Doorway(Protocol):
    """See `homeserver.rooms.arrival.OutOfBand`."""

    async def left(self, version: RoomVersion, event: Incoming, ended: str) -> bool: ...


class EndsOfInvitations:
    """The `Strays` of `federation.inbound.rooms`."""

    def __init__(self, *, cache: RoomCache, events: EventStore, doorway: Doorway, server_name: str) -> None:
        self._cache = cache
        self._events = events
        self._doorway = doorway
        self._server_name = server_name

    async def stray(self, origin: str, incoming: Incoming) -> bool:
        """Whether the event ended what a user here had at the room's door."""
        event = incoming.event
        user_id = event.state_key
        if event.type != "m.room.member" or user_id is None or ":" not in user_id:
            return False
        if event.content.get("membership") not in ("leave", "ban") or event.sender == user_id:
            return False
        room = await self._cache.get(event.room_id)
        if room is None or domain_of(user_id) != self._server_name:
            return False
        member = room.head.members.get(user_id)
        if member is None or member.membership not in ("invite", "knock"):
            return False
        (present,) = await self._events.by_ordinals([(room.key, member.ordinal)])
        if present.event_id not in event.auth_event_ids:
            return False
        if member.membership == "invite" and event.sender != present.sender:
            return False
        return await self._doorway.left(event.room_version, incoming, present.event_id)
