# SPDX-License-Identifier: Apache-2.0
"""`GET /events`: the old way of hearing news, of all one's rooms or of one that anybody may read.

Client-server API, "Syncing" (deprecated) and "Room Previews". Owns room events only: what else `/sync` tells has no
place in a list of events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from homeserver.events import RoomEvent
from homeserver.needs import Protocol
from homeserver.protocol.tokens import SyncToken
from homeserver.rooms.access import MEMBER, RoomGate, Sight
from homeserver.rooms.engine import RoomCache
from homeserver.rooms.reading.messages import IgnoredUsers, InvitePermissions
from homeserver.rooms.reading.presenting import Client, Presenter, array, json_object, text
from homeserver.rooms.user_rooms import UserRooms
from homeserver.stream import Change, Stream
from storage.events import StoredEvent
from storage.timelines import TimelineStore

MOST = 100
"""Events in one answer; the next follows at once."""


class Timer(Protocol):
    """A call that is due later."""

    def active(self) -> bool: ...

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Calls later, and knows the time; the reactor is one."""

    def callLater(self, delay: float, call: Callable[[], object], /) -> Timer: ...  # noqa: N802

    def seconds(self) -> float: ...


class Ending(Protocol):
    """Something that ends all waiting: the server stops."""

    @property
    def fired(self) -> bool: ...

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]: ...


class Peekers:
    """Who follows rooms without being in them: commits wake a room's members by themselves, these by this.

    One per process, subscribed to the stream.
    """

    def __init__(self) -> None:
        self._by_room: dict[int, list[str]] = {}

    def follow(self, room: int, user_id: str) -> None:
        """From now on the user's listeners wake for the room; once for each time this is called."""
        self._by_room.setdefault(room, []).append(user_id)

    def unfollow(self, room: int, user_id: str) -> None:
        """Take one `follow` back."""
        followers = self._by_room[room]
        followers.remove(user_id)
        if not followers:
            del self._by_room[room]

    def changed(self, change: Change) -> Iterable[str]:
        """Whom a commit concerns."""
        if not self._by_room:
            return ()
        if change.unknown:
            return {user for followers in self._by_room.values() for user in followers}
        return {user for room in change.rooms for user in self._by_room.get(room, ())}


class _News(Struct, frozen=True):
    """Rendered events; `upto` is the position at or below which nothing is missing."""

    events: list[bytes]
    upto: int


class EventStream:
    """One per process."""

    def __init__(
        self,
        *,
        clock: Clock,
        stream: Stream,
        peekers: Peekers,
        gate: RoomGate,
        cache: RoomCache,
        user_rooms: UserRooms,
        store: TimelineStore,
        ignored_users: IgnoredUsers,
        permissions: InvitePermissions,
        presenter: Presenter,
    ) -> None:
        self._clock = clock
        self._stream = stream
        self._peekers = peekers
        self._gate = gate
        self._cache = cache
        self._user_rooms = user_rooms
        self._store = store
        self._ignored = ignored_users
        self._permissions = permissions
        self._presenter = presenter

    async def wait(
        self, client: Client, since: str | None, *, timeout: float, room_id: str | None, ending: Ending
    ) -> bytes:
        """The response, a JSON object, once there is news or `timeout` seconds have passed.

        Raises TokenError for `since`, Forbidden for the room.
        """
        start = SyncToken(self._stream.position) if since is None else SyncToken.parse(since)
        peeked = None
        if room_id is not None:
            peeked = (await self._gate.access_room(client.user_id, room_id)).room.key
            self._peekers.follow(peeked, client.user_id)
        listener = self._stream.listen(client.user_id)
        timer = self._clock.callLater(timeout, listener.wake)
        unsubscribe = ending.subscribe(listener.wake)
        try:
            position = start.position
            while True:
                news = await self._news(client, position, room_id)
                if news.events or not timer.active() or ending.fired:
                    break
                if news.upto < self._stream.position:
                    position = news.upto  # all of it was invisible, and there is more
                    continue
                position = max(position, news.upto)
                await listener.wait()
        finally:
            if timer.active():
                timer.cancel()
            unsubscribe()
            listener.close()
            if peeked is not None:
                self._peekers.unfollow(peeked, client.user_id)
        return json_object(
            {
                "start": text(str(start)),
                "end": text(str(SyncToken(max(start.position, news.upto), start.ephemeral))),
                "chunk": array(news.events),
            }
        )

    async def _news(self, client: Client, since: int, room_id: str | None) -> _News:
        upto = self._stream.position
        sights: dict[int, Sight] | None = None
        reach = upto
        if room_id is None:
            rooms = await self._concerned(client.user_id, since)
        else:
            access = await self._gate.access_room(client.user_id, room_id)
            rooms, sights = [access.room.key], {access.room.key: access.sight}
            if access.until is not None:
                reach = min(upto, access.until)
        rooms = [room for room in rooms if self._stream.rooms.may_have_changed(room, since)]
        if not rooms or since >= reach:
            return _News([], upto)
        stored = await self._store.news(rooms, since, reach, MOST)
        if sights is None:
            sights = await self._gate.sights(client.user_id, sorted({each.room for each in stored}))
        if len(stored) == MOST:
            upto = stored[-1].position
        return _News(await self._rendered(client, stored, sights), upto)

    async def _concerned(self, user_id: str, since: int) -> list[int]:
        """The rooms the user is in, and those where what they are has changed since."""
        standings = await self._user_rooms.of(user_id)
        return [
            room
            for room, standing in standings.items()
            if not standing.forgotten and (standing.membership == "join" or standing.since > since)
        ]

    async def _rendered(
        self, client: Client, stored: list[StoredEvent], sights: dict[int, Sight]
    ) -> list[bytes]:
        ignored = await self._ignored.ignored(client.user_id)
        rooms = await self._cache.get_many(keys=sorted({each.room for each in stored}))
        by_key = {room.key: room for room in rooms.values()}
        shown: list[tuple[RoomEvent, Sight]] = []
        for each in stored:
            room = by_key.get(each.room)
            if room is None or (each.state_key is None and each.sender in ignored):
                continue
            entry = self._gate.in_memory(room, each)
            sight = sights[each.room]
            # One is told of one's own invite, whatever the room shows to the invited, unless one wants none.
            own = each.type == MEMBER and each.state_key == client.user_id
            if own and await self._is_unwanted_invite(entry, ignored):
                continue
            if own or sight.may_see(entry):
                shown.append((entry, sight))
        return self._presenter.mixed(client, shown)

    async def _is_unwanted_invite(self, own: RoomEvent, ignored: frozenset[str]) -> bool:
        """Of a user's own member event."""
        if own.event.content.get("membership") != "invite":
            return False
        return own.stored.sender in ignored or await self._permissions.blocks_all(str(own.stored.state_key))
