# SPDX-License-Identifier: Apache-2.0
"""Who was let into which LiveKit room, and is no longer in its Matrix room. Owns their table.

Every time in it is the database's clock. Whoever takes a row holds it until its next time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from storage.database import Database

_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_PUT: Final = f"""
INSERT INTO livekit_tickets (livekit_room, identity, room_id, user_id, issued_ts, next_ts)
SELECT %s, %s, %s, %s, {_NOW}, {_NOW}
WHERE (SELECT count(*) FROM livekit_tickets WHERE user_id = %s AND issued_ts > {_NOW} - 86400000) < %s
ON CONFLICT (livekit_room, identity) DO UPDATE
SET room_id = excluded.room_id, user_id = excluded.user_id, issued_ts = excluded.issued_ts, lost_ts = NULL
"""  # noqa: S608
# A room without any of our users is not followed: what others are in it is not known. Nor is it of those who were let
# into the call of a room whose members are still to come.
_TAKE: Final = f"""
UPDATE livekit_tickets t SET next_ts = {_NOW} + %s, lost_ts = coalesce(t.lost_ts, {_NOW}) FROM (
    SELECT livekit_room, identity FROM livekit_tickets k
    WHERE next_ts <= {_NOW} AND NOT EXISTS (
        SELECT FROM rooms r JOIN memberships m ON m.room = r.room
        WHERE r.room_id = k.room_id AND m.user_id = k.user_id AND m.until IS NULL AND m.membership = 'join'
    ) AND (server_of(k.user_id) = %s OR EXISTS (
        SELECT FROM rooms r JOIN memberships m ON m.room = r.room
        WHERE r.room_id = k.room_id AND server_of(m.user_id) = %s AND m.until IS NULL AND m.membership = 'join'))
      AND NOT EXISTS (
        SELECT FROM rooms r JOIN partial_rooms p ON p.room = r.room
        WHERE r.room_id = k.room_id AND server_of(k.user_id) = ANY (p.servers) AND NOT EXISTS (
            SELECT FROM memberships m WHERE m.room = r.room AND m.user_id = k.user_id AND m.until IS NULL))
    ORDER BY next_ts LIMIT %s FOR UPDATE SKIP LOCKED
) due WHERE t.livekit_room = due.livekit_room AND t.identity = due.identity
RETURNING t.livekit_room, t.identity, {_NOW} - t.lost_ts
"""  # noqa: S608
_DROP: Final = """
DELETE FROM livekit_tickets t USING unnest(%s::text[], %s::text[]) AS u (livekit_room, identity)
WHERE t.livekit_room = u.livekit_room AND t.identity = u.identity AND t.lost_ts IS NOT NULL
"""
_SWEEP: Final = f"DELETE FROM livekit_tickets WHERE issued_ts < {_NOW} - %s"  # noqa: S608


class LostTicket(NamedTuple):
    """Of somebody who is no longer in the room, and for how many milliseconds that has been known."""

    livekit_room: str
    identity: str
    lost_ms: int


class LiveKitTicketStore:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, *, livekit_room: str, identity: str, room_id: str, user_id: str, most: int) -> bool:
        """Note a ticket; False, noting none, if the user had `most` others within a day."""
        row = (livekit_room, identity, room_id, user_id, user_id, most)
        return bool(await self._database.execute("livekit_tickets_put", _PUT, row))

    async def take_lost(self, server_name: str, most: int, pause_ms: int) -> list[LostTicket]:
        """Those of people who are not joined to the room, each at most once in `pause_ms`."""
        rows = await self._database.fetch(
            "livekit_tickets_take", _TAKE, (pause_ms, server_name, server_name, most)
        )
        return [LostTicket(*row) for row in rows]

    async def drop(self, tickets: Sequence[LostTicket]) -> None:
        """Look for them no longer, unless they were let in anew."""
        columns = ([each.livekit_room for each in tickets], [each.identity for each in tickets])
        await self._database.execute("livekit_tickets_drop", _DROP, columns)

    async def sweep(self, kept_ms: int) -> None:
        """Forget tickets older than that."""
        await self._database.execute("livekit_tickets_sweep", _SWEEP, (kept_ms,))
