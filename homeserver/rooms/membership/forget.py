# SPDX-License-Identifier: Apache-2.0
"""Forgetting a room that was left: it no longer shows, past included, until the user joins, is invited or knocks."""

from __future__ import annotations

from homeserver.errors import NotFound, Unknown
from homeserver.rooms.actor import Actor
from homeserver.rooms.user_rooms import UserRooms
from homeserver.stream import Committer


class Forgetting:
    def __init__(self, *, committer: Committer, user_rooms: UserRooms) -> None:
        self._committer = committer
        self._user_rooms = user_rooms

    async def forget(self, actor: Actor, room_id: str) -> None:
        """Forget a room, also again. Raises Unknown while the user is in it, NotFound if they never were."""
        user_id = actor.user_id
        standings = (await self._user_rooms.of(user_id)).values()
        standing = next((standing for standing in standings if standing.room_id == room_id), None)
        if standing is None:
            raise NotFound(f"User {user_id} was never in room {room_id}")
        if standing.membership not in ("leave", "ban"):
            raise Unknown(f"User {user_id} is in room {room_id}")
        if not standing.forgotten:
            # By way of the stream, so that every process learns of it.
            row = {"room": standing.room, "user_id": user_id}
            await self._committer.write("forgotten", [row], users=(user_id,))
