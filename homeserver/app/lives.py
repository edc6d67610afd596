# SPDX-License-Identifier: Apache-2.0
"""What the whole server does when an account ends: accounts ask, and know nothing of who does it."""

from __future__ import annotations

import logging

from homeserver.needs import Protocol
from homeserver.rooms.membership.departure import RoomDeparture

logger = logging.getLogger(__name__)


class Departing(Protocol):
    """Drops what it keeps of a user; safe to repeat."""

    async def depart(self, user_id: str, *, erase: bool) -> None: ...


class Departures:
    """Takes closed accounts out of the rooms first, then lets each service drop what it keeps of them."""

    def __init__(self, rooms: RoomDeparture, *others: Departing) -> None:
        self._rooms = rooms
        self._others = others

    async def depart(self, user_id: str, *, erase: bool) -> None:
        """See `homeserver.accounts.DepartingUser`. What one fails at keeps no other from dropping what it has."""
        failure: Exception | None = None
        for service in (self._rooms, *self._others):
            try:
                await service.depart(user_id, erase=erase)
            except Exception as error:
                if failure is not None:
                    logger.warning(
                        "%s was not left by %s either", type(service).__name__, user_id, exc_info=error
                    )
                failure = failure or error
        if failure is not None:
            raise failure
