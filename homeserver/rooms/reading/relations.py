# SPDX-License-Identifier: Apache-2.0
"""`GET /rooms/{roomId}/relations/{eventId}…`: the children of an event (client-server API, "Relationships API")."""

from __future__ import annotations

import orjson
from msgspec import Struct

from homeserver.errors import Forbidden, NotFound
from homeserver.rooms.access import RoomAccess, RoomGate
from homeserver.rooms.reading import places
from homeserver.rooms.reading.messages import NO_WISH, IgnoredUsers
from homeserver.rooms.reading.presenting import Client, Presenter, array, json_object, text
from homeserver.rooms.reading.timeline import Range, TimelineReader, wanted_by
from storage.events import StoredEvent, TimelinePlace
from storage.relations import LEVELS, RelationStore

DEFAULT_LIMIT = 20
MOST = 100


class RelationsQuery(Struct, frozen=True):
    """What is asked for: tokens as clients gave them. `recurse` None: not asked."""

    rel_type: str | None = None
    event_type: str | None = None
    backwards: bool = True
    start: str | None = None
    stop: str | None = None
    limit: int | None = None
    recurse: bool | None = None

    @property
    def page_limit(self) -> int:
        """How many events, within bounds."""
        return DEFAULT_LIMIT if self.limit is None else max(1, min(self.limit, MOST))


class RelatedEvents:
    """One per process."""

    def __init__(
        self,
        *,
        gate: RoomGate,
        timeline: TimelineReader,
        walks: places.Places,
        store: RelationStore,
        ignored_users: IgnoredUsers,
        presenter: Presenter,
    ) -> None:
        self._gate = gate
        self._timeline = timeline
        self._places = walks
        self._store = store
        self._ignored = ignored_users
        self._presenter = presenter

    async def page(self, client: Client, room_id: str, event_id: str, query: RelationsQuery) -> bytes:
        """The response, a JSON object. Raises NotFound if the user may not see the parent."""
        try:
            access, _ = await self._gate.access_event(client.user_id, room_id, event_id)
        except Forbidden as refused:
            raise NotFound("Event not found") from refused

        async def children(place: TimelinePlace, limit: int) -> list[StoredEvent]:
            return await self._store.children(
                access.room.key,
                event_id,
                place,
                backwards=query.backwards,
                limit=limit,
                rel_type=query.rel_type,
                event_type=query.event_type,
                recurse=bool(query.recurse),
            )

        ignored = await self._ignored.ignored(client.user_id)
        page = await self._timeline.page(
            access,
            await self._range(access, query),
            query.page_limit,
            wanted_by(NO_WISH, ignored, access.room),
            children,
        )
        return json_object(
            {
                "chunk": array(await self._presenter.history(client, access, page.events, ignored)),
                "next_batch": text(None if page.end is None else places.token_of(page.end)),
                "prev_batch": text(query.start),
                "recursion_depth": None if query.recurse is None else orjson.dumps(_depth(query.recurse)),
            }
        )

    async def _range(self, access: RoomAccess, query: RelationsQuery) -> Range:
        walks, room = self._places, access.room
        stop = None
        if query.backwards:
            start = places.end_of(room) if query.start is None else await walks.last_upto(room, query.start)
            if query.stop is not None:
                stop = await walks.first_from(room, query.stop)
        else:
            start = places.BEGINNING if query.start is None else await walks.first_from(room, query.start)
            if query.stop is not None:
                stop = await walks.last_upto(room, query.stop)
        return Range(start, query.backwards, stop)


def _depth(recurse: bool) -> int:
    return LEVELS if recurse else 1
