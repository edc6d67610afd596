# SPDX-License-Identifier: Apache-2.0
"""What the whole server does when an account ends: accounts ask, and know nothing of who does it."""

from __future__ import annotations

from homeserver.needs import Protocol
from homeserver.rooms.membership.departure import RoomDeparture


class Departing(Protocol):
    """Drops what it keeps of a user; safe to repeat."""

    async def depart(self, user_id: str, *, erase: bool) -> None: ...


class Departures:
    """Takes closed accounts out of the rooms first, then lets each service drop what it keeps of them."""

    def __init__(self, rooms: RoomDeparture, *others: Departing) -> None:
        self._rooms = rooms
        self._others = others

    async def depart(self, user_id: str, *, erase: bool) -> None:
        """See `homeserver.accounts.DepartingUser`."""
        await self._rooms.leave_all(user_id)
        for other in self._others:
            await other.depart(user_id, erase=erase)
