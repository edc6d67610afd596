# SPDX-License-Identifier: Apache-2.0
"""Taking a user out of every room: what closing an account does to rooms."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.locating import LikelyServers
from homeserver.rooms.membership.in_many_rooms import CHUNK, write_in_rooms
from homeserver.rooms.membership.writing import MEMBER
from homeserver.rooms.remote import RemoteRooms
from homeserver.rooms.user_rooms import UserRooms
from storage.memberships import Standing

logger = logging.getLogger(__name__)

_PRESENT = ("join", "invite", "knock")


class RoomDeparture:
    """Leaves rooms, rejects invites, withdraws knocks."""

    def __init__(
        self, *, engine: RoomEngine, user_rooms: UserRooms, remote: RemoteRooms, likely: LikelyServers
    ) -> None:
        self._engine = engine
        self._user_rooms = user_rooms
        self._remote = remote
        self._likely = likely

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

        here, elsewhere = await self._by_residence(standings)
        await write_in_rooms(self._engine, user_id, [standing.room for standing in here], plan)
        for start in range(0, len(elsewhere), CHUNK):
            await self._leave_elsewhere(user_id, elsewhere[start : start + CHUNK])

    async def _by_residence(self, standings: Sequence[Standing]) -> tuple[list[Standing], list[Standing]]:
        """The standings in rooms this server is in, and the others: invites and knocks."""
        calls = [standing for standing in standings if standing.membership != "join"]
        live: set[int] = set()
        for start in range(0, len(calls), CHUNK):
            keys = [standing.room for standing in calls[start : start + CHUNK]]
            rooms = await self._engine.cache.get_many(keys=keys)
            live.update(r.key for r in rooms.values() if r.head.is_resident(self._engine.server_name))
        elsewhere = [standing for standing in calls if standing.room not in live]
        absent = {standing.room for standing in elsewhere}
        return [standing for standing in standings if standing.room not in absent], elsewhere

    async def _leave_elsewhere(self, user_id: str, standings: Sequence[Standing]) -> None:
        """All at once: each may wait for a server that is down."""
        leaves: list[Deferred[object]] = [
            Deferred.fromCoroutine(self._leave_one(user_id, standing.room_id)) for standing in standings
        ]
        for _, result in await DeferredList(leaves, consumeErrors=True):
            if isinstance(result, Failure):
                logger.info("%s could not leave a room elsewhere: %s", user_id, result.value)

    async def _leave_one(self, user_id: str, room_id: str) -> object:
        servers = await self._likely.of(room_id, user_id)
        return await self._remote.leave(user_id, room_id, servers=servers, content={"membership": "leave"})
