# SPDX-License-Identifier: Apache-2.0
"""Which servers are in which rooms: those with a joined member, and where most members are not known yet, those that
were told when the room was entered.

For rooms that are not in memory; where one is, its head knows its hosts.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.database import Database

_NOW = """SELECT DISTINCT server_of(user_id) FROM memberships
    WHERE room = ANY (%(rooms)s::bigint[]) AND until IS NULL AND membership = 'join'
    UNION SELECT unnest(servers) FROM partial_rooms WHERE room = ANY (%(rooms)s::bigint[])"""

_AT = """
WITH wanted AS (
    SELECT room, position FROM unnest(%s::bigint[], %s::bigint[]) AS w(room, position)
), hosts AS MATERIALIZED (
    SELECT room, server_name, range_agg(stay) AS present FROM (
        SELECT m.room, server_of(m.user_id), int8range(m.since, m.until) FROM memberships m
        WHERE m.room IN (SELECT room FROM wanted) AND m.membership = 'join'
          AND (m.until IS NULL OR m.until > (SELECT min(position) FROM wanted))
        UNION ALL
        SELECT p.room, unnest(p.servers), int8range(NULL, NULL) FROM partial_rooms p
        WHERE p.room IN (SELECT room FROM wanted)
    ) AS s(room, server_name, stay) GROUP BY room, server_name
)
SELECT w.room, w.position, array_agg(h.server_name)
FROM wanted w JOIN hosts h ON h.room = w.room AND h.present @> w.position GROUP BY w.room, w.position
"""

_STRANGERS = """
SELECT m.user_id FROM memberships m
WHERE server_of(m.user_id) = %(own)s AND m.room = %(room)s AND m.membership = 'join' AND m.until IS NULL
  AND NOT EXISTS (
    SELECT FROM memberships e JOIN memberships o ON o.room = e.room
    WHERE e.user_id = m.user_id AND e.until IS NULL AND e.membership = 'join' AND e.room <> m.room
      AND server_of(o.user_id) = %(server)s AND o.until IS NULL AND o.membership = 'join')
LIMIT %(limit)s
"""


class RoomHostStore:
    """Reads hosts of rooms, this server among them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def now(self, rooms: Sequence[int]) -> set[str]:
        """The servers in any of those rooms."""
        if not rooms:
            return set()
        rows = await self._database.fetch("room_hosts_now", _NOW, {"rooms": list(rooms)})
        return {str(row[0]) for row in rows}

    async def strangers(self, room: int, own: str, server: str, limit: int) -> list[str]:
        """Joined users of the server `own` in a room who share no other room with a user of the server `server`."""
        params = {"room": room, "own": own, "server": server, "limit": limit}
        return [str(row[0]) for row in await self._database.fetch("room_strangers", _STRANGERS, params)]

    async def at(self, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], frozenset[str]]:
        """For each (room, stream position): the servers that were in the room once that position had happened."""
        if not places:
            return {}
        rooms, positions = zip(*places, strict=True)
        rows = await self._database.fetch("room_hosts_at", _AT, (list(rooms), list(positions)))
        return {(int(room), int(position)): frozenset(names) for room, position, names in rows}
