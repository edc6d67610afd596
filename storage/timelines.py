# SPDX-License-Identifier: Apache-2.0
"""Where things stand in rooms' timelines: by stream position, by time, and members as they were.

Complements `storage/events.py`, whose events these are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from storage.database import Database, Prepared
from storage.events import EVENT_COLUMNS, EVENT_JOINS, StoredEvent, TimelinePlace
from storage.packing import pdu_of

_FORKS = 32
"""How many events around a position are looked at for the outermost: as many branches may stand side by side."""

_SIMULTANEOUS = 100
"""Of more events of one millisecond than these, any may pass for the first: the index does not order them."""

MEMBERSHIPS = frozenset(("ban", "invite", "join", "knock", "leave"))

_LAST_UPTO = f"""SELECT depth, position FROM (
        SELECT depth, position FROM events WHERE room = %s AND position <= %s AND flags = 0
        ORDER BY position DESC LIMIT {_FORKS}
    ) AS n ORDER BY depth DESC, position DESC LIMIT 1"""  # noqa: S608

_FIRST_AFTER = f"""SELECT depth, position FROM (
        SELECT depth, position FROM events WHERE room = %s AND position > %s AND flags = 0
        ORDER BY position LIMIT {_FORKS}
    ) AS n ORDER BY depth, position LIMIT 1"""  # noqa: S608

_NEAREST_BEFORE = f"""SELECT {EVENT_COLUMNS}
    FROM (
        SELECT * FROM (
            SELECT * FROM events n
            WHERE n.room = %s AND (n.origin_server_ts, n.position) <= (%s, %s) AND n.flags = 0
            ORDER BY n.origin_server_ts DESC LIMIT {_SIMULTANEOUS}
        ) AS n ORDER BY n.origin_server_ts DESC, n.position DESC LIMIT %s
    ) AS e {EVENT_JOINS} ORDER BY e.origin_server_ts DESC, e.position DESC"""  # noqa: S608

_NEAREST_AFTER = f"""SELECT {EVENT_COLUMNS}
    FROM (
        SELECT * FROM (
            SELECT * FROM events n
            WHERE n.room = %s AND (n.origin_server_ts, n.position) >= (%s, %s) AND n.flags = 0
            ORDER BY n.origin_server_ts LIMIT {_SIMULTANEOUS}
        ) AS n ORDER BY n.origin_server_ts, n.position LIMIT %s
    ) AS e {EVENT_JOINS} ORDER BY e.origin_server_ts, e.position"""  # noqa: S608

_NEWS = Prepared(
    f"""SELECT {EVENT_COLUMNS}
    FROM (
        SELECT n.* FROM unnest(%s::bigint[]) AS w(room)
        CROSS JOIN LATERAL (
            SELECT * FROM events n
            WHERE n.room = w.room AND n.position > %s AND n.position <= %s AND n.flags = 0
            ORDER BY n.position LIMIT %s
        ) AS n ORDER BY n.position LIMIT %s
    ) AS e {EVENT_JOINS} ORDER BY e.position"""  # noqa: S608
)

_MEMBERS_AT = Prepared(
    f"""SELECT {EVENT_COLUMNS}
    FROM unnest(%s::text[]) AS w(user_id)
    CROSS JOIN LATERAL (
        SELECT * FROM events n
        WHERE n.room = %s AND n.type = 'm.room.member' AND n.state_key = w.user_id AND n.position <= %s AND n.flags = 0
        ORDER BY n.position DESC LIMIT 1
    ) AS e {EVENT_JOINS}"""  # noqa: S608
)

_MEMBERSHIPS_OF = f"""SELECT e.ordinal, {pdu_of("e")}::json -> 'content' ->> 'membership' FROM events e
    WHERE e.room = %s AND e.type = 'm.room.member' AND e.state_key = %s AND e.flags & 1 = 0"""  # noqa: S608

_OF_STATE = f"""SELECT {EVENT_COLUMNS}
    FROM unnest(%(ordinals)s::int[]) AS w(ordinal)
    JOIN events e ON e.room = %(room)s AND e.ordinal = w.ordinal {EVENT_JOINS}
    WHERE """  # noqa: S608
_OF_STATE_TYPE = (
    _OF_STATE + "e.type = %(type)s AND (%(state_key)s::text IS NULL OR e.state_key = %(state_key)s)"
)
_OF_STATE_USERS = _OF_STATE + "(e.type <> 'm.room.member' OR e.state_key = ANY (%(users)s::text[]))"


class TimelineStore:
    """Finds places in timelines and what stood there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def last_upto(self, room: int, position: int) -> TimelinePlace | None:
        """Numbers of the event that is last in the timeline among the newest at or below a stream position."""
        row = await self._database.fetch_one("timeline_last_upto", _LAST_UPTO, (room, position))
        return None if row is None else TimelinePlace(*row)

    async def first_after(self, room: int, position: int) -> TimelinePlace | None:
        """Numbers of the event that is first in the timeline among the oldest above a stream position."""
        row = await self._database.fetch_one("timeline_first_after", _FIRST_AFTER, (room, position))
        return None if row is None else TimelinePlace(*row)

    async def nearest(
        self, room: int, timestamp: int, position: int, *, backwards: bool, limit: int
    ) -> list[StoredEvent]:
        """Up to `limit` events (of a hundred) at or before (or after) a time in milliseconds, nearest first, those
        of one time by position."""
        sql = _NEAREST_BEFORE if backwards else _NEAREST_AFTER
        rows = await self._database.fetch("timeline_nearest", sql, (room, timestamp, position, limit))
        return [StoredEvent._make(row) for row in rows]

    async def news(self, rooms: Sequence[int], after: int, upto: int, limit: int) -> list[StoredEvent]:
        """The oldest `limit` events of those rooms with after < position ≤ upto, by position."""
        rows = await self._database.fetch("timeline_news", _NEWS, (list(rooms), after, upto, limit, limit))
        return [StoredEvent._make(row) for row in rows]

    async def members_at(self, room: int, users: Sequence[str], position: int) -> list[StoredEvent]:
        """The newest member event of each of those users at or below a position, for those who have one."""
        rows = await self._database.fetch("timeline_members_at", _MEMBERS_AT, (list(users), room, position))
        return [StoredEvent._make(row) for row in rows]

    async def memberships_of(self, room: int, user_id: str) -> dict[int, str]:
        """What each of a user's member events made of them, by ordinal; also of those whose place is not known."""
        rows = await self._database.fetch("timeline_memberships_of", _MEMBERSHIPS_OF, (room, user_id))
        return {ordinal: membership for ordinal, membership in rows if membership in MEMBERSHIPS}

    async def of_type(
        self, room: int, ordinals: Iterable[int], event_type: str, state_key: str | None = None
    ) -> list[StoredEvent]:
        """Of the events at those ordinals, a state, the ones of a type (and state key)."""
        params = {"room": room, "ordinals": list(ordinals), "type": event_type, "state_key": state_key}
        rows = await self._database.fetch("timeline_state_of_type", _OF_STATE_TYPE, params)
        return [StoredEvent._make(row) for row in rows]

    async def with_members(
        self, room: int, ordinals: Iterable[int], users: Sequence[str]
    ) -> list[StoredEvent]:
        """Of the events at those ordinals, a state, all but the member events of others than `users`."""
        params = {"room": room, "ordinals": list(ordinals), "users": list(users)}
        rows = await self._database.fetch("timeline_state_with_members", _OF_STATE_USERS, params)
        return [StoredEvent._make(row) for row in rows]
