# SPDX-License-Identifier: Apache-2.0
"""Events of calls, found in a user's rooms by two partial indexes on `events` (migration 0021).

Owns no table. Events of the time before this server came into a room (positions up to 0) are not looked at: nobody here
was called by them. Of events beyond 32 KiB the content is not read, so that a page reads little whoever writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from storage.database import Database
from storage.events import StoredEvent
from storage.packing import pdu_of

MOST_KEYS: Final = 500
"""State keys of a room that are looked at for who was in a call."""
MOST_ROWS: Final = 3_000
"""Of one answer, over all rooms."""

_TYPES: Final = """('m.call.invite', 'm.call.answer', 'm.call.select_answer', 'm.call.reject', 'm.call.hangup',
    'm.call.member', 'org.matrix.msc3401.call.member', 'm.rtc.notification', 'org.matrix.msc4075.rtc.notification',
    'm.call.notify', 'org.matrix.msc4075.call.notify', 'm.rtc.decline', 'org.matrix.msc4310.rtc.decline')"""
"""As the index has them, letter by letter."""
_MEMBERS: Final = "('m.call.member', 'org.matrix.msc3401.call.member')"

# What other events add to an event is of no use here.
_COLUMNS: Final = f"""e.room, e.ordinal, e.position, e.depth, e.origin_server_ts, e.snapshot, NULL::int, e.visibility,
    e.flags, e.event_id, e.type, e.state_key, e.sender, NULL, NULL, NULL, NULL,
    CASE WHEN octet_length(e.pdu) <= 32768 THEN {pdu_of("e")} ELSE '{{}}' END, NULL, NULL"""

_NEWEST = f"""
SELECT {_COLUMNS} FROM (
    SELECT n.room, n.ordinal FROM unnest(%s::bigint[]) AS w(room)
    CROSS JOIN LATERAL (
        SELECT c.room, c.ordinal, c.position FROM events c
        WHERE c.room = w.room AND c.type IN {_TYPES} AND c.flags = 0 AND c.position > %s AND c.position < %s
        ORDER BY c.position DESC LIMIT %s) AS n
    ORDER BY n.position DESC LIMIT %s) AS found
JOIN events e USING (room, ordinal) ORDER BY e.position DESC
"""  # noqa: S608
_FOLLOWING = f"""
SELECT {_COLUMNS} FROM (
    SELECT n.room, n.ordinal FROM unnest(%s::bigint[], %s::bigint[]) AS w(room, start)
    CROSS JOIN LATERAL (
        SELECT c.room, c.ordinal, c.position FROM events c
        WHERE c.room = w.room AND c.type IN {_TYPES} AND c.flags = 0 AND c.position >= w.start
        ORDER BY c.position LIMIT %s) AS n
    ORDER BY n.position LIMIT {MOST_ROWS}) AS found
JOIN events e USING (room, ordinal) ORDER BY e.position
"""  # noqa: S608
_MEMBERS_BEFORE = f"""
SELECT {_COLUMNS} FROM (
    SELECT w.room, n.ordinal FROM unnest(%s::bigint[], %s::bigint[]) AS w(room, start)
    CROSS JOIN LATERAL (
        SELECT s.type, s.state_key FROM current_state s
        WHERE s.room = w.room AND s.type IN {_MEMBERS} LIMIT {MOST_KEYS}) AS k
    CROSS JOIN LATERAL (
        SELECT c.ordinal, c.position FROM events c
        WHERE c.room = w.room AND c.type = k.type AND c.type IN {_MEMBERS} AND c.state_key = k.state_key
          AND c.flags = 0 AND c.position > 0 AND c.position < w.start
        ORDER BY c.position DESC LIMIT 1) AS n
    ORDER BY n.position DESC LIMIT {MOST_ROWS}) AS found
JOIN events e USING (room, ordinal) ORDER BY e.position
"""  # noqa: S608
_ONLY_OTHERS = """
SELECT m.room, min(m.user_id) FROM room_summaries s JOIN memberships m USING (room)
WHERE s.room = ANY (%s::bigint[]) AND s.joined_members + s.invited_members <= 2
  AND m.until IS NULL AND m.membership IN ('join', 'invite') AND m.user_id <> %s
GROUP BY m.room HAVING count(*) = 1
"""


class CallEventStore:
    """Reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self, rooms: Sequence[int], *, after: int, before: int, limit: int) -> list[StoredEvent]:
        """Of all those rooms together the newest `limit` with after < position < before, newest first."""
        params = (list(rooms), max(0, after), before, limit, limit)
        return _events(await self._database.fetch("call_events_newest", _NEWEST, params))

    async def following(self, starts: Mapping[int, int], limit: int) -> list[StoredEvent]:
        """Of each room its first `limit` from a position on, in their order."""
        params = (list(starts), list(starts.values()), limit)
        return _events(await self._database.fetch("call_events_following", _FOLLOWING, params))

    async def members_before(self, starts: Mapping[int, int]) -> list[StoredEvent]:
        """Of each room and state key the last membership of a call before a position."""
        params = (list(starts), list(starts.values()))
        return _events(await self._database.fetch("call_members_before", _MEMBERS_BEFORE, params))

    async def only_others(self, rooms: Sequence[int], user_id: str) -> dict[int, str]:
        """Who else is in those of the rooms that nobody else is in but one."""
        rows = await self._database.fetch("call_only_others", _ONLY_OTHERS, (list(rooms), user_id))
        return {int(row[0]): str(row[1]) for row in rows}


def _events(rows: list[tuple[Any, ...]]) -> list[StoredEvent]:
    return [StoredEvent._make((*row, *_LACKING)) for row in rows]


_LACKING: Final = tuple(StoredEvent._field_defaults.values())
