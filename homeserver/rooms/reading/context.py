# SPDX-License-Identifier: Apache-2.0
"""`GET /rooms/{roomId}/context/{eventId}`: an event with its neighbours, and the state at the last of them."""

from __future__ import annotations

from homeserver.events import RoomEvent
from homeserver.protocol.filters import RoomEventFilter
from homeserver.rooms.access import RoomAccess, RoomGate
from homeserver.rooms.reading import places
from homeserver.rooms.reading.event_search import EventSearch
from homeserver.rooms.reading.messages import IgnoredUsers
from homeserver.rooms.reading.presenting import Client, Presenter, array, json_object, text
from homeserver.rooms.reading.timeline import Range, TimelinePage, TimelineReader, wanted_by
from storage.timelines import TimelineStore

DEFAULT_LIMIT = 10
MOST = 100


class EventContext:
    """One per process."""

    def __init__(
        self,
        *,
        gate: RoomGate,
        search: EventSearch,
        timeline: TimelineReader,
        store: TimelineStore,
        ignored_users: IgnoredUsers,
        presenter: Presenter,
    ) -> None:
        self._gate = gate
        self._search = search
        self._timeline = timeline
        self._store = store
        self._ignored = ignored_users
        self._presenter = presenter

    async def around(
        self, client: Client, room_id: str, event_id: str, limit: int | None, wish: RoomEventFilter
    ) -> bytes:
        """The response, a JSON object. Raises NotFound for an event the user may not see, Forbidden for the room.

        `limit` counts the neighbours on both sides together.
        """
        access, target = await self._search.access_event(client.user_id, room_id, event_id)
        limit = DEFAULT_LIMIT if limit is None else max(0, min(limit, MOST))
        ignored = await self._ignored.ignored(client.user_id)
        wanted = wanted_by(wish, ignored, access.room)
        stored = target.stored
        earlier = later = TimelinePage([], None)
        if limit // 2:
            start = Range(places.before(stored), backwards=True)
            earlier = await self._timeline.page(access, start, limit // 2, wanted)
        if limit - limit // 2:
            start = Range(places.after(stored), backwards=False)
            later = await self._timeline.page(access, start, limit - limit // 2, wanted)
        first = earlier.events[-1] if earlier.events else target
        last = later.events[-1] if later.events else target
        shown = [target, *earlier.events, *later.events]
        state = await self._state(access, last, shown, wish)
        event, *neighbours = await self._presenter.history(client, access, shown, ignored)
        count = len(earlier.events)
        return json_object(
            {
                "start": text(places.token_of(places.before(first.stored))),
                "end": text(places.token_of(places.after(last.stored))),
                "event": event,
                "events_before": array(neighbours[:count]),
                "events_after": array(neighbours[count:]),
                "state": array(await self._presenter.state(client, state)),
            }
        )

    async def _state(
        self, access: RoomAccess, last: RoomEvent, shown: list[RoomEvent], wish: RoomEventFilter
    ) -> list[RoomEvent]:
        """The state once the last event had happened, as far as the filter wants it."""
        room = access.room
        ordinals = await self._gate.ordinals_after(room, last.stored)
        if wish.lazy_load_members:
            senders = {entry.stored.sender for entry in shown}
            stored = await self._store.with_members(room.key, ordinals, sorted(senders))
            state = [self._gate.in_memory(room, each) for each in stored]
        else:
            state = await self._gate.load(room, ordinals)
        wanted = wanted_by(wish, frozenset(), room)
        return state if wanted is None else [entry for entry in state if wanted(entry)]
