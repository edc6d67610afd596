# SPDX-License-Identifier: Apache-2.0
"""Joins of other servers' users to restricted rooms: are the conditions met, and who of ours vouches for it?

Server-server API, "Restricted rooms". The conditions themselves are read by `homeserver.rooms.membership.join`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from homeserver.errors import Forbidden, UnableToAuthoriseJoin, UnableToGrantJoin
from homeserver.needs import Protocol
from homeserver.rooms.engine import RoomHead
from homeserver.rooms.membership.join import allowed_rooms, may_vouch, must_meet_conditions, who_may_invite

AUTHORISER = "join_authorised_via_users_server"


class ResidentRooms(Protocol):
    """`storage.server_memberships.ServerMembershipStore`, as far as it is used here."""

    async def resident_rooms(
        self, room_ids: Collection[str], server_name: str, user_id: str
    ) -> dict[str, bool]: ...


class RestrictedJoins:
    """One per process."""

    def __init__(self, *, server_name: str, rooms: ResidentRooms) -> None:
        self._server_name = server_name
        self._rooms = rooms

    async def elsewhere(self, head: RoomHead, user_id: str) -> Mapping[str, bool]:
        """Of the rooms whose members may join, those this server is in, each with whether the user is too. Nothing is
        asked where that does not matter. Raises Forbidden where the user may not join at all.
        """
        if not must_meet_conditions(head, user_id):
            return {}
        return await self._rooms.resident_rooms(set(allowed_rooms(head)), self._server_name, user_id)

    def authoriser(self, head: RoomHead, user_id: str, elsewhere: Mapping[str, bool]) -> str | None:
        """Who of ours vouches for the join; None where nobody needs to.

        Raises Forbidden where the user may not join, UnableToAuthoriseJoin where another server may know better,
        UnableToGrantJoin where the user may join but nobody here can say so.
        """
        if not must_meet_conditions(head, user_id):
            return None
        self._check_conditions(head, elsewhere)
        authoriser = next(who_may_invite(head, self._server_name), None)
        if authoriser is None:
            raise UnableToGrantJoin
        return authoriser

    def check_authoriser(
        self, head: RoomHead, user_id: str, authoriser: str, elsewhere: Mapping[str, bool]
    ) -> None:
        """Raise as `authoriser` unless that very user of ours may vouch for the join."""
        if must_meet_conditions(head, user_id):
            self._check_conditions(head, elsewhere)
        if not may_vouch(head, authoriser, self._server_name):
            raise UnableToGrantJoin("The user who is said to authorise the join cannot do so")

    @staticmethod
    def _check_conditions(head: RoomHead, elsewhere: Mapping[str, bool]) -> None:
        allowed = set(allowed_rooms(head))
        if any(joined for room_id, joined in elsewhere.items() if room_id in allowed):
            return
        if allowed - elsewhere.keys():
            raise UnableToAuthoriseJoin
        raise Forbidden("The user is in none of the rooms whose members may join this one")
