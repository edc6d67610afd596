# SPDX-License-Identifier: Apache-2.0
"""Carrying a changed profile into the user's member events. Client-server API, "Profiles", "Events on change"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.membership.in_many_rooms import write_in_rooms
from homeserver.rooms.membership.writing import MEMBER
from homeserver.rooms.user_rooms import UserRooms


class ProfilePropagation:
    """Rewrites member events of joined rooms."""

    def __init__(self, *, engine: RoomEngine, user_rooms: UserRooms) -> None:
        self._engine = engine
        self._user_rooms = user_rooms

    async def propagate_profile(self, user_id: str, changes: Mapping[str, str | None]) -> None:
        """Put the changed keys (`displayname`, `avatar_url`; None: removed) into every joined room's member event.

        Rooms that show them already get no event, so that repeating a propagation that broke off is cheap.
        """

        rooms = [standing.room for standing in await self._user_rooms.joined(user_id)]
        await show_profile(self._engine, user_id, rooms, changes)


async def show_profile(
    engine: RoomEngine, user_id: str, rooms: Sequence[int], changes: Mapping[str, str | None]
) -> None:
    """As `ProfilePropagation.propagate_profile`, in those rooms, by key, that the user is joined to."""

    def plan(head: RoomHead) -> Sequence[Draft]:
        present = engine.member_event(head, user_id)
        if present is None or not head.is_joined(user_id):
            return ()
        before = present.event.content
        content = {**before, **changes}
        content = {key: value for key, value in content.items() if value is not None or key not in changes}
        # Why the user once joined, and who vouched for it, belongs to that event and not to this one.
        for key in ("reason", "join_authorised_via_users_server", "third_party_invite"):
            content.pop(key, None)
        if all(before.get(key) == value for key, value in changes.items()):
            return ()
        return (Draft(MEMBER, user_id, content, user_id),)

    await write_in_rooms(engine, user_id, rooms, plan)
