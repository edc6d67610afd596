# SPDX-License-Identifier: Apache-2.0
"""`GET /rooms/{roomId}/initialSync` and `GET /initialSync`: a room, or all of a user's, at once.

Client-server API, "Getting events for a room" and "Syncing" (deprecated). However many rooms there are, each kind of
thing is read for all of them in one query.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any

import orjson
from msgspec import Struct

from homeserver.events import RoomEvent
from homeserver.needs import Protocol
from homeserver.protocol.tokens import SyncToken
from homeserver.rooms.access import RoomGate, Sight
from homeserver.rooms.engine import Room, RoomCache
from homeserver.rooms.engine.snapshots import state_at
from homeserver.rooms.reading import places
from homeserver.rooms.reading.messages import NO_WISH, IgnoredUsers, InvitePermissions
from homeserver.rooms.reading.presenting import Client, Presenter, array, json_object, text
from homeserver.rooms.reading.timeline import wanted_by
from homeserver.rooms.user_rooms import UserRooms
from homeserver.stream import Stream
from storage.events import EventStore, StoredEvent
from storage.memberships import Standing
from storage.room_history import RoomHistoryStore

JsonObject = Mapping[str, Any]

DEFAULT_LIMIT = 10
MOST = 100


class KeptData(Protocol):
    """Account data as events, global and by room."""

    @property
    def global_(self) -> Sequence[JsonObject]: ...

    @property
    def rooms(self) -> Mapping[int, Sequence[JsonObject]]: ...


class AccountData(IgnoredUsers, Protocol):
    """What users keep; since position 0 it is everything."""

    def changed(self, user_id: str, since: int, upto: int) -> Awaitable[KeptData]: ...


class Presence(Protocol):
    """Who is about; since serial 0 it is everybody that the user shares a room with."""

    def changed(self, user_id: str, since: int) -> Sequence[JsonObject]: ...


class Published(Protocol):
    """Which rooms the server's directory lists."""

    def published_among(self, rooms: Sequence[int]) -> Awaitable[Collection[int]]: ...


class _Subject(Struct, frozen=True):
    """A room to show. `until` as in `StateAccess`."""

    room: Room
    membership: str | None
    until: int | None
    sight: Sight


class InitialSync:
    """One per process."""

    def __init__(
        self,
        *,
        stream: Stream,
        gate: RoomGate,
        cache: RoomCache,
        user_rooms: UserRooms,
        events: EventStore,
        history: RoomHistoryStore,
        published: Published,
        account_data: AccountData,
        permissions: InvitePermissions,
        presence: Presence,
        presenter: Presenter,
    ) -> None:
        self._stream = stream
        self._gate = gate
        self._cache = cache
        self._user_rooms = user_rooms
        self._events = events
        self._history = history
        self._published = published
        self._account_data = account_data
        self._permissions = permissions
        self._presence = presence
        self._presenter = presenter

    async def of_room(self, client: Client, room_id: str, limit: int | None) -> bytes:
        """One room, a JSON object. Raises Forbidden."""
        position = self._stream.position
        access = await self._gate.access_room(client.user_id, room_id)
        subject = _Subject(access.room, access.membership, access.until, access.sight)
        kept = await self._account_data.changed(client.user_id, 0, position)
        return (await self._pictures(client, [subject], kept, position, limit))[0]

    async def of_user(self, client: Client, *, limit: int | None, archived: bool) -> bytes:
        """All rooms of the user, with their account data and everybody's presence, a JSON object."""
        position = self._stream.position
        standings = [
            standing
            for standing in (await self._user_rooms.of(client.user_id)).values()
            if not standing.forgotten and (archived or standing.membership in ("join", "invite"))
        ]
        kept = await self._account_data.changed(client.user_id, 0, position)
        by_id = await self._cache.get_many(keys=[standing.room for standing in standings])
        rooms = {room.key: room for room in by_id.values()}
        standings = [standing for standing in standings if standing.room in rooms]
        invited = await self._wanted_invites(client, standings)
        sights = await self._gate.sights(client.user_id, [standing.room for standing in standings])
        subjects = []
        for standing in standings:
            sight = sights[standing.room]
            until = None if standing.membership == "join" else sight.left_at
            if standing.membership == "join" or (
                standing.membership in ("leave", "ban") and until is not None
            ):
                subjects.append(_Subject(rooms[standing.room], standing.membership, until, sight))
        pictures = await self._pictures(client, subjects, kept, position, limit)
        pictures.extend(await self._invitations(client, invited, rooms))
        return json_object(
            {
                "end": text(str(SyncToken(position))),
                "presence": orjson.dumps(list(self._presence.changed(client.user_id, 0))),
                "account_data": orjson.dumps(list(kept.global_)),
                "rooms": array(pictures),
            }
        )

    async def _wanted_invites(self, client: Client, standings: Sequence[Standing]) -> Sequence[Standing]:
        """Not those of ignored users, and none if the user wants none ("Invite permission")."""
        invited = [standing for standing in standings if standing.membership == "invite"]
        if not invited or await self._permissions.blocks_all(client.user_id):
            return ()
        ignored = await self._account_data.ignored(client.user_id)
        return [standing for standing in invited if standing.sender not in ignored]

    async def _invitations(
        self, client: Client, invited: Sequence[Standing], rooms: Mapping[int, Room]
    ) -> list[bytes]:
        loaded = await self._gate.load_many(
            {standing.room: (rooms[standing.room], (standing.ordinal,)) for standing in invited}
        )
        pictures = []
        for standing in invited:
            event = await self._presenter.state(client, loaded[standing.room])
            pictures.append(
                json_object(
                    {
                        "room_id": text(standing.room_id),
                        "membership": text("invite"),
                        "invite": event[0] if event else None,
                    }
                )
            )
        return pictures

    async def _pictures(
        self, client: Client, subjects: Sequence[_Subject], kept: KeptData, position: int, limit: int | None
    ) -> list[bytes]:
        if not subjects:
            return []
        limit = DEFAULT_LIMIT if limit is None else max(0, min(limit, MOST))
        keys = [subject.room.key for subject in subjects]
        published = await self._published.published_among(keys)
        ignored = await self._account_data.ignored(client.user_id)
        # At least one event, since the state of a room that was left is found by its last one.
        timelines = await self._events.timelines(
            [(s.room.key, 0, position if s.until is None else s.until) for s in subjects], max(limit, 1)
        )
        states = await self._states(subjects, timelines)
        pictures = []
        for subject in subjects:
            room = subject.room
            stored = timelines[room.key][-limit:] if limit else []
            picture = {
                "room_id": text(room.room_id),
                "membership": text(subject.membership),
                "messages": await self._messages(client, subject, stored, ignored, position),
                "state": array(await self._presenter.state(client, states[room.key])),
                "visibility": text("public" if room.key in published else "private"),
                "account_data": orjson.dumps(list(kept.rooms.get(room.key, ()))),
            }
            pictures.append(json_object(picture))
        return pictures

    async def _messages(
        self,
        client: Client,
        subject: _Subject,
        stored: Sequence[StoredEvent],
        ignored: frozenset[str],
        position: int,
    ) -> bytes:
        room = subject.room
        wanted = wanted_by(NO_WISH, ignored, room)
        shown = []
        for each in stored:
            entry = self._gate.in_memory(room, each)
            if subject.sight.may_see(entry) and (wanted is None or wanted(entry)):
                shown.append(entry)
        start = text(places.token_of(places.before(stored[0]))) if stored else None
        return json_object(
            {
                "start": start,
                "end": text(str(SyncToken(position))),
                "chunk": array(await self._presenter.timeline(client, subject.sight, shown)),
            }
        )

    async def _states(
        self, subjects: Sequence[_Subject], timelines: Mapping[int, Sequence[StoredEvent]]
    ) -> dict[int, list[RoomEvent]]:
        """Each room's state: the present one, or as it was when the user left."""
        last = {
            s.room.key: timelines[s.room.key][-1]
            for s in subjects
            if s.until is not None and timelines[s.room.key]
        }
        chains = await self._history.chains(
            [(room, each.current_snapshot) for room, each in last.items() if each.current_snapshot]
        )
        wanted: dict[int, tuple[Room, Collection[int]]] = {}
        for subject in subjects:
            room = subject.room
            left = last.get(room.key)
            ordinals: Collection[int]
            if subject.until is None:
                ordinals = [entry.stored.ordinal for entry in room.head.state.values()]
                ordinals.extend(member.ordinal for member in room.head.members.values())
            elif left is None:
                ordinals = ()
            else:
                snapshot = left.current_snapshot
                ordinals = list(state_at(chains[room.key, snapshot])) if snapshot else ()
            wanted[room.key] = (room, ordinals)
        return await self._gate.load_many(wanted)
