# SPDX-License-Identifier: Apache-2.0
"""`GET /rooms/{roomId}/messages`: a page of a room's timeline in either direction."""

from __future__ import annotations

from collections.abc import Awaitable

from msgspec import Struct

from homeserver.needs import Protocol
from homeserver.protocol.filters import RoomEventFilter
from homeserver.rooms.access import RoomAccess, RoomGate
from homeserver.rooms.reading import places
from homeserver.rooms.reading.member_history import MemberHistory
from homeserver.rooms.reading.presenting import Client, Presenter, array, json_object, text
from homeserver.rooms.reading.timeline import Range, TimelineReader, wanted_by

NO_WISH = RoomEventFilter()
DEFAULT_LIMIT = 10
MOST = 1000


class IgnoredUsers(Protocol):
    """Whom users ignore; account data's service is one."""

    def ignored(self, user_id: str) -> Awaitable[frozenset[str]]: ...


class InvitePermissions(Protocol):
    """Who wants to be shown no invites."""

    def blocks_all(self, user_id: str) -> Awaitable[bool]: ...


class MessagesQuery(Struct, frozen=True):
    """What is asked for: tokens as clients gave them."""

    backwards: bool
    start: str | None = None
    stop: str | None = None
    limit: int | None = None
    wish: RoomEventFilter = NO_WISH

    @property
    def page_limit(self) -> int:
        """How many events, within bounds."""
        limit = self.limit if self.limit is not None else self.wish.limit
        return DEFAULT_LIMIT if limit is None else max(1, min(limit, MOST))


class Messages:
    """One per process."""

    def __init__(
        self,
        *,
        gate: RoomGate,
        timeline: TimelineReader,
        walks: places.Places,
        members: MemberHistory,
        ignored_users: IgnoredUsers,
        presenter: Presenter,
    ) -> None:
        self._gate = gate
        self._timeline = timeline
        self._places = walks
        self._members = members
        self._ignored = ignored_users
        self._presenter = presenter

    async def page(self, client: Client, room_id: str, query: MessagesQuery) -> bytes:
        """The response, a JSON object. Raises Forbidden for the room, InvalidParam and TokenError for tokens."""
        access = await self._gate.access_room(client.user_id, room_id)
        wanted_range = await self._range(access, query)
        ignored = await self._ignored.ignored(client.user_id)
        wanted = wanted_by(query.wish, ignored, access.room)
        page = await self._timeline.page(access, wanted_range, query.page_limit, wanted)
        state = None
        if query.wish.lazy_load_members and page.events:
            senders = await self._members.senders(access.room, page.events)
            state = array(await self._presenter.state(client, senders))
        chunk = await self._presenter.history(client, access, page.events, ignored, page.parents)
        return json_object(
            {
                "start": text(query.start or places.token_of(wanted_range.start)),
                "end": text(None if page.end is None else places.token_of(page.end)),
                "chunk": array(chunk),
                "state": state,
            }
        )

    async def _range(self, access: RoomAccess, query: MessagesQuery) -> Range:
        room, walks = access.room, self._places
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
