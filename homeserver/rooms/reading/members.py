# SPDX-License-Identifier: Apache-2.0
"""`GET /rooms/{roomId}/members` and `/joined_members`: who is in a room, now or at a point of its past."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from homeserver.errors import Forbidden
from homeserver.events import RoomEvent
from homeserver.rooms.access import RoomAccess, RoomGate, StateAccess
from homeserver.rooms.reading import places
from homeserver.rooms.reading.presenting import PORTION, Client, Presenter, array, json_object
from homeserver.rooms.whole_rooms import WholeRooms
from storage.events import EventStore, TimelinePlace
from storage.timelines import TimelineStore

MEMBER = "m.room.member"


class MembersQuery(Struct, frozen=True):
    """What is asked for. With both conditions given, a member needs to meet one of them."""

    at: str | None = None
    membership: str | None = None
    not_membership: str | None = None

    def wants(self, membership: object) -> bool:
        """Whether members of that membership are wanted."""
        if self.membership is None and self.not_membership is None:
            return True
        if self.membership is not None and membership == self.membership:
            return True
        return self.not_membership is not None and membership != self.not_membership


class RoomMembers:
    """One per process."""

    def __init__(
        self,
        *,
        gate: RoomGate,
        walks: places.Places,
        events: EventStore,
        store: TimelineStore,
        presenter: Presenter,
        whole: WholeRooms,
    ) -> None:
        self._gate = gate
        self._whole = whole
        self._places = walks
        self._events = events
        self._store = store
        self._presenter = presenter

    async def get(self, client: Client, room_id: str, query: MembersQuery) -> bytes:
        """The response of `/members`. Raises Forbidden; InvalidParam and TokenError for `at`; RemoteServerFailed while
        the members are not known.
        """
        await self._gate.access_state(client.user_id, room_id)
        await self._whole.get(room_id)
        access = await self._gate.access_state(client.user_id, room_id)
        if query.at is not None:
            found = await self._at(client, room_id, query.at)
        elif access.until is not None:
            found = await self._in_state(access, access.until)
        else:
            members = access.room.head.members
            wanted = [user_id for user_id, member in members.items() if query.wants(member.membership)]
            present = (await self._gate.members(access.room, wanted)).values()
            return await self._response(client, list(present))
        chunk = [entry for entry in found if query.wants(entry.event.content.get("membership"))]
        return await self._response(client, chunk)

    async def joined(self, user_id: str, room_id: str) -> dict[str, dict[str, Any]]:
        """Joined users and how they call themselves. Raises Forbidden unless the user is one of them."""
        await self._gate.access_joined_room(user_id, room_id)
        await self._whole.get(room_id)
        room = await self._gate.access_joined_room(user_id, room_id)
        entries = await self._gate.members(room, list(room.head.joined_users()))
        profiles: dict[str, dict[str, Any]] = {}
        for number, (user, entry) in enumerate(entries.items(), 1):
            if number % PORTION == 0:
                await self._presenter.pause()
            profiles[user] = _profile(entry.event.content)
        return profiles

    async def _response(self, client: Client, chunk: Sequence[RoomEvent]) -> bytes:
        return json_object({"chunk": array(await self._presenter.state(client, chunk))})

    async def _at(self, client: Client, room_id: str, token: str) -> list[RoomEvent]:
        """Members at a token, which must be a point that the user may look at: one they could have reached by
        paginating, not before they were let in and not after they left."""
        access = await self._gate.access_room(client.user_id, room_id)
        room = access.room
        place = await self._places.last_upto(room, token)
        if access.until is not None:
            place = min(place, await self._places.after_position(room, access.until))
        elif place >= places.end_of(room):
            return list((await self._gate.members(room, list(room.head.members))).values())
        last = await self._events.page(room.key, place, backwards=True, limit=1)
        if not last:
            return []
        if not access.sight.may_see(self._gate.in_memory(room, last[0])):
            await self._check_joined_there(access, place)
        ordinals = await self._gate.ordinals_after(room, last[0])
        stored = await self._store.of_type(room.key, ordinals, MEMBER)
        return [self._gate.in_memory(room, each) for each in stored]

    async def _check_joined_there(self, access: RoomAccess, place: TimelinePlace) -> None:
        """Raise Forbidden unless the next event is the user's join: its sync showed them the state before it too."""
        following = await self._events.page(access.room.key, place, backwards=False, limit=1)
        joined = [
            stored
            for stored in following
            if stored.type == MEMBER
            and stored.state_key == access.user_id
            and access.sight.membership_at(stored.position) == "join"
        ]
        if not joined:
            raise Forbidden("You may not see this room's past at that point")

    async def _in_state(self, access: StateAccess, position: int) -> list[RoomEvent]:
        room = access.room
        ordinals = await self._gate.ordinals_as_of(room, position)
        stored = await self._store.of_type(room.key, ordinals, MEMBER)
        return [self._gate.in_memory(room, each) for each in stored]


def _profile(content: dict[str, Any]) -> dict[str, Any]:
    profile: dict[str, Any] = {}
    for key, name in (("displayname", "display_name"), ("avatar_url", "avatar_url")):
        value = content.get(key)
        if isinstance(value, str):
            profile[name] = value
    return profile
