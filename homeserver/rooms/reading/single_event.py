# SPDX-License-Identifier: Apache-2.0
"""`GET /rooms/{roomId}/event/{eventId}`: one event."""

from __future__ import annotations

from homeserver.errors import Forbidden, NotFound
from homeserver.rooms.access import RoomGate
from homeserver.rooms.reading.messages import IgnoredUsers
from homeserver.rooms.reading.presenting import Client, Presenter


class SingleEvent:
    """One per process."""

    def __init__(self, *, gate: RoomGate, ignored_users: IgnoredUsers, presenter: Presenter) -> None:
        self._gate = gate
        self._ignored = ignored_users
        self._presenter = presenter

    async def get(self, client: Client, room_id: str, event_id: str) -> bytes:
        """The event, a JSON object. Raises NotFound, also where the user may not read the room."""
        try:
            access, entry = await self._gate.access_event(client.user_id, room_id, event_id)
        except Forbidden as refused:
            raise NotFound("Event not found") from refused
        ignored = await self._ignored.ignored(client.user_id)
        return (await self._presenter.history(client, access, [entry], ignored))[0]
