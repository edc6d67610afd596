# SPDX-License-Identifier: Apache-2.0
"""Taking a user out of every room: what closing an account does to rooms."""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.membership.in_many_rooms import write_in_rooms
from homeserver.rooms.membership.writing import MEMBER
from homeserver.rooms.user_rooms import UserRooms

_PRESENT = ("join", "invite", "knock")


class RoomDeparture:
    """Leaves rooms, rejects invites, withdraws knocks."""

    def __init__(self, *, engine: RoomEngine, user_rooms: UserRooms) -> None:
        self._engine = engine
        self._user_rooms = user_rooms

    async def depart(self, user_id: str, *, erase: bool) -> None:
        """What accounts ask of everybody when one is closed; erasing asks no more of rooms than leaving them."""
        await self.leave_all(user_id)

    async def leave_all(self, user_id: str) -> None:
        """Leave every room the user is joined or invited to or has knocked on. Does no harm when repeated."""
        standings = [s for s in (await self._user_rooms.of(user_id)).values() if s.membership in _PRESENT]

        def plan(head: RoomHead) -> Sequence[Draft]:
            if head.membership(user_id) not in _PRESENT:
                return ()
            return (Draft(MEMBER, user_id, {"membership": "leave"}, user_id),)

        await write_in_rooms(self._engine, user_id, standings, plan)
