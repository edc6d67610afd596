# SPDX-License-Identifier: Apache-2.0
"""`GET /rooms/{roomId}/event/{eventId}`, and `GET /events/{eventId}` as it was before: one event."""

from __future__ import annotations

from homeserver.errors import Forbidden, NotFound
from homeserver.rooms.engine import RoomCache
from homeserver.rooms.reading.event_search import EventSearch
from homeserver.rooms.reading.messages import IgnoredUsers
from homeserver.rooms.reading.presenting import Client, Presenter
from storage.events import EventStore


class SingleEvent:
    """One per process."""

    def __init__(
        self,
        *,
        search: EventSearch,
        cache: RoomCache,
        events: EventStore,
        ignored_users: IgnoredUsers,
        presenter: Presenter,
    ) -> None:
        self._search = search
        self._cache = cache
        self._events = events
        self._ignored = ignored_users
        self._presenter = presenter

    async def get(self, client: Client, room_id: str, event_id: str) -> bytes:
        """The event, a JSON object. Raises NotFound, also where the user may not read the room."""
        try:
            access, entry = await self._search.access_event(client.user_id, room_id, event_id)
        except Forbidden as refused:
            raise NotFound("Event not found") from refused
        ignored = await self._ignored.ignored(client.user_id)
        return (await self._presenter.history(client, access, [entry], ignored))[0]

    async def get_of_any_room(self, client: Client, event_id: str) -> bytes:
        """As `get`, for who does not say where the event is."""
        stored = (await self._events.by_ids((event_id,))).get(event_id)
        rooms = {} if stored is None else await self._cache.get_many(keys=(stored.room,))
        if not rooms:
            raise NotFound("Event not found")
        return await self.get(client, next(iter(rooms)), event_id)
