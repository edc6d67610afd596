# SPDX-License-Identifier: Apache-2.0
"""The memberships table and the events table, asked on behalf of a server: when it had a part in a room, by any user.

What it may see for that is decided in `homeserver/rooms/server_access.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import orjson

from storage.database import Database, Prepared
from storage.packing import pdu_of


class Presence(NamedTuple):
    """A stretch during which some user of the server was joined, or was invited: from the event at `since` until the
    one at `until` (None: it lasts)."""

    membership: str
    since: int
    until: int | None


_PRESENCES = Prepared(
    """SELECT 'join', lower(s.span), upper(s.span) FROM (
        SELECT unnest(range_agg(int8range(since, until))) AS span FROM memberships
        WHERE server_of(user_id) = %s AND room = %s AND membership = 'join') AS s
    UNION ALL SELECT 'invite', lower(s.span), upper(s.span) FROM (
        SELECT unnest(range_agg(int8range(since, until))) AS span FROM memberships
        WHERE %s AND server_of(user_id) = %s AND room = %s AND membership = 'invite') AS s"""
)

_AT = Prepared(
    f"""SELECT e.ordinal, {pdu_of("e")} FROM events e
    WHERE e.room = %s AND e.ordinal = ANY (%s::int[]) AND e.type = 'm.room.member'
      AND server_of(e.state_key) = %s"""  # noqa: S608
)

_RESIDENT = Prepared(
    """SELECT r.room_id, EXISTS (
        SELECT FROM memberships u
        WHERE u.room = r.room AND u.user_id = %s AND u.until IS NULL AND u.membership = 'join')
    FROM rooms r WHERE r.room_id = ANY (%s) AND EXISTS (
        SELECT FROM memberships m
        WHERE server_of(m.user_id) = %s AND m.room = r.room AND m.until IS NULL AND m.membership = 'join')"""
)


class ServerMembershipStore:
    """Reads what servers are and were in rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def presences(self, room: int, server_name: str, *, invited: bool) -> list[Presence]:
        """All of a server in a room, those of its users that touch or overlap run together; invites only if wanted,
        since they cost a look at every membership of the room.
        """
        params = (server_name, room, invited, server_name, room)
        rows = await self._database.fetch("server_presences", _PRESENCES, params)
        return [Presence._make(row) for row in rows]

    async def memberships_at(self, room: int, server_name: str, ordinals: Iterable[int]) -> dict[int, str]:
        """Of the events at those ordinals, states of a room: the member events of a server's users, and what each made
        of them. Content without a membership is left out."""
        rows = await self._database.fetch("server_memberships_at", _AT, (room, list(ordinals), server_name))
        found: dict[int, str] = {}
        for ordinal, pdu in rows:
            membership = orjson.loads(pdu)["content"].get("membership")
            if isinstance(membership, str):
                found[int(ordinal)] = membership
        return found

    async def resident_rooms(
        self, room_ids: Collection[str], server_name: str, user_id: str
    ) -> dict[str, bool]:
        """Those of the rooms in which a user of the server is joined: room id → whether `user_id`, of whatever server,
        is too."""
        if not room_ids:
            return {}
        params = (user_id, list(room_ids), server_name)
        rows = await self._database.fetch("server_resident_rooms", _RESIDENT, params)
        return {str(room_id): bool(joined) for room_id, joined in rows}
