# SPDX-License-Identifier: Apache-2.0
"""From tokens to places of a room's timeline.

A timeline is ordered by depth, then position; a sync token names a point of the stream instead, which in a room with
branches is a ragged edge of the timeline. Where the two differ, the place is chosen so that a page rather repeats an
event than skips one.
"""

from __future__ import annotations

from homeserver.errors import InvalidParam
from homeserver.protocol.tokens import PlaceToken, SyncToken
from homeserver.rooms.engine import Room
from storage.events import StoredEvent, TimelinePlace
from storage.timelines import TimelineStore

BEGINNING = TimelinePlace(0, 0)
"""Before any event: depths begin with 1."""

END = TimelinePlace(2**62, 0)
"""After any event, also those yet to come."""


def end_of(room: Room) -> TimelinePlace:
    """After everything there is of a room."""
    return TimelinePlace(room.head.depth, room.head.position + 1)


def before(stored: StoredEvent) -> TimelinePlace:
    """Just before an event."""
    return TimelinePlace(stored.depth, stored.position)


def after(stored: StoredEvent) -> TimelinePlace:
    """Just after an event."""
    return TimelinePlace(stored.depth, stored.position + 1)


def token_of(place: TimelinePlace) -> str:
    """The place as clients hold on to it."""
    return str(PlaceToken(*place))


class Places:
    """Reads tokens. One per process."""

    def __init__(self, store: TimelineStore) -> None:
        self._store = store

    async def first_from(self, room: Room, token: str) -> TimelinePlace:
        """The place at or after which everything lies that comes after the token. Raises InvalidParam, TokenError."""
        place = _place(token)
        if isinstance(place, TimelinePlace):
            return place
        if place >= room.head.position:
            return END
        first = await self._store.first_after(room.key, place)
        return END if first is None else first

    async def last_upto(self, room: Room, token: str) -> TimelinePlace:
        """The place before which everything lies that comes before the token. Raises InvalidParam, TokenError."""
        place = _place(token)
        if isinstance(place, TimelinePlace):
            return place
        return await self.after_position(room, place)

    async def after_position(self, room: Room, position: int) -> TimelinePlace:
        """The place before which everything at or below a stream position lies."""
        if position >= room.head.position:
            return end_of(room)
        last = await self._store.last_upto(room.key, position)
        return BEGINNING if last is None else TimelinePlace(last.depth, last.position + 1)


def _place(token: str) -> TimelinePlace | int:
    """A place, or the stream position of a sync token."""
    if token.startswith("t"):
        return TimelinePlace(*PlaceToken.parse(token))
    if token.startswith("s"):
        return SyncToken.parse(token).position
    raise InvalidParam("That is no pagination token of this server")
