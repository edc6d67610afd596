# SPDX-License-Identifier: Apache-2.0
"""The memberships table: who was what in a room, and when.

Rows are begun, ended and forgotten in the stream's commits (`storage/stream.py`); this module reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from storage.database import Database, Prepared


class Standing(NamedTuple):
    """What a user is in a room now."""

    room: int
    room_id: str
    membership: str
    since: int
    """Position at which the interval began."""
    ordinal: int
    """The newest member event."""
    sender: str
    """Who made it so: tells a kick from a leave."""
    forgotten: bool
    stripped_state: str | None
    """JSON array, with invites and knocks."""


class Interval(NamedTuple):
    """A stretch of one membership: from the event at `since` until the one at `until` (None: it stands)."""

    membership: str
    since: int
    until: int | None
    ordinal: int
    sender: str
    forgotten: bool


_STANDING = Prepared(
    """SELECT m.room, r.room_id, m.membership, m.since, m.ordinal, m.sender, m.forgotten, m.stripped_state
    FROM memberships m JOIN rooms r USING (room) WHERE m.user_id = %s AND m.until IS NULL"""
)
_INTERVALS = Prepared(
    """SELECT m.room, m.membership, m.since, m.until, m.ordinal, m.sender, m.forgotten
    FROM memberships m WHERE m.user_id = %s AND m.room = ANY (%s::bigint[]) ORDER BY m.room, m.since"""
)


class MembershipStore:
    """Reads memberships by user."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def standing(self, user_id: str) -> list[Standing]:
        """Every room the user ever had a membership in, as it stands, forgotten ones included."""
        rows = await self._database.fetch("memberships_standing", _STANDING, (user_id,))
        return [Standing._make(row) for row in rows]

    async def intervals(self, user_id: str, rooms: Sequence[int]) -> dict[int, list[Interval]]:
        """The user's whole history in each of those rooms, oldest first."""
        found: dict[int, list[Interval]] = {room: [] for room in rooms}
        for room, *interval in await self._database.fetch(
            "memberships_intervals", _INTERVALS, (user_id, list(rooms))
        ):
            found[room].append(Interval._make(interval))
        return found
