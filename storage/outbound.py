# SPDX-License-Identifier: Apache-2.0
"""Events that this server must spread: an event's row is its own entry in the queue of every server it concerns.

Owns finding them, by position, and by what one server that was away has missed. Which servers an event concerns is
decided in `federation/outbound`, with the same rule that the query for one server has here: those in the room once the
event had happened, and the server of the member it is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from storage.database import Database
from storage.packing import pdu_of

WHOLE = 50
"""If a server missed no more events of a room than a transaction takes, it is sent all of them: fetching costs both
sides more."""
PER_ROOM = 10
"""Of more than that only so many of the newest: it fetches what lies before."""

_COLUMNS = f"e.position, e.room, e.event_id, e.type, e.state_key, e.sender, {pdu_of('e')}"

_SINCE = f"""SELECT {_COLUMNS} FROM events e
    WHERE e.outbound AND (e.flags & 7) = 0 AND e.position > %s AND e.position <= %s
    ORDER BY e.position LIMIT %s"""  # noqa: S608

_SINCE_IN_ROOMS = f"""SELECT {_COLUMNS} FROM unnest(%s::bigint[]) AS w(room)
    JOIN events e ON e.room = w.room AND e.outbound AND (e.flags & 7) = 0 AND e.position > %s AND e.position <= %s
    ORDER BY e.position LIMIT %s"""  # noqa: S608

MISSED = """
WITH stays AS MATERIALIZED (
    SELECT room, range_agg(stay) AS present FROM (
        SELECT m.room, int8range(m.since, m.until) FROM memberships m
        WHERE server_of(m.user_id) = %(server)s AND m.membership = 'join'
          AND (m.until IS NULL OR m.until > %(after)s)
        UNION ALL  -- rooms of which most members are not known yet
        SELECT p.room, int8range(NULL, NULL) FROM partial_rooms p WHERE %(server)s = ANY (p.servers)
    ) AS s(room, stay) GROUP BY room HAVING bool_or(upper_inf(stay))
), missed AS (
    SELECT e.position, e.room, e.ordinal FROM stays s JOIN rooms r USING (room)
    CROSS JOIN LATERAL (
        SELECT w.*, count(*) OVER () AS there, row_number() OVER (ORDER BY w.position DESC) AS nth FROM (
            SELECT n.position, n.room, n.ordinal, n.sender FROM events n  -- off the index, whatever the room's size
            WHERE n.room = s.room AND n.outbound AND (n.flags & 7) = 0
              AND n.position > %(after)s AND n.position <= %(upto)s
            ORDER BY n.position DESC LIMIT %(whole)s + 1
        ) AS w
    ) AS e
    WHERE r.position > %(after)s AND (e.there <= %(whole)s OR e.nth <= %(per_room)s)
      AND s.present @> e.position AND server_of(e.sender) <> %(server)s
    UNION
    SELECT n.position, n.room, n.ordinal FROM events n
    WHERE server_of(n.state_key) = %(server)s AND n.outbound AND n.type = 'm.room.member' AND (n.flags & 7) = 0
      AND n.position > %(after)s AND n.position <= %(upto)s AND server_of(n.sender) <> %(server)s
)
SELECT position, room, ordinal FROM missed ORDER BY position LIMIT %(limit)s
"""

_AT = f"""SELECT {_COLUMNS} FROM unnest(%s::bigint[], %s::int[]) AS w(room, ordinal)
    JOIN events e USING (room, ordinal) ORDER BY e.position"""  # noqa: S608


class OutboundEvent(NamedTuple):
    """An event to spread. `pdu` is its canonical JSON."""

    position: int
    room: int
    event_id: str
    type: str
    state_key: str | None
    sender: str
    pdu: str


class Place(NamedTuple):
    """Where an event is."""

    position: int
    room: int
    ordinal: int


class OutboundStore:
    """Finds events to spread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def since(
        self, after: int, upto: int, limit: int, rooms: Sequence[int] | None = None
    ) -> list[OutboundEvent]:
        """The oldest with after < position ≤ upto, of some rooms or of all."""
        if rooms is None:
            rows = await self._database.fetch("outbound_since", _SINCE, (after, upto, limit))
        else:
            rows = await self._database.fetch(
                "outbound_since_in_rooms", _SINCE_IN_ROOMS, (list(rooms), after, upto, limit)
            )
        return [OutboundEvent._make(row) for row in rows]

    async def missed(self, server_name: str, after: int, upto: int, limit: int) -> list[Place]:
        """What a server is to be sent after it was away, oldest first: of each room it is in, from after its join, all
        events if they are few (`WHOLE`), else the newest `PER_ROOM`; and what became of the memberships of its users.
        """
        params = {
            "server": server_name,
            "after": after,
            "upto": upto,
            "limit": limit,
            "whole": WHOLE,
            "per_room": PER_ROOM,
        }
        rows = await self._database.fetch("outbound_missed", MISSED, params)
        return [Place._make(row) for row in rows]

    async def at(self, places: Sequence[Place]) -> list[OutboundEvent]:
        """The events there, by position."""
        params = ([place.room for place in places], [place.ordinal for place in places])
        return [OutboundEvent._make(row) for row in await self._database.fetch("outbound_at", _AT, params)]
