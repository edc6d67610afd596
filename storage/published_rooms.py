# SPDX-License-Identifier: Apache-2.0
"""The rooms published in this server's directory, and what the directory shows of them, in one query per page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from storage.database import Database

_COLUMNS = """r.room, r.room_id, r.version, s.name, s.topic, s.canonical_alias, s.avatar_url, s.join_rule,
    s.guest_can_join, s.world_readable, s.room_type, s.encryption, s.joined_members"""

_MATCHING = """FROM published_rooms p JOIN rooms r USING (room) JOIN room_summaries s USING (room)
    WHERE s.joined_members > 0
      AND (%(term)s::text IS NULL OR s.name ILIKE %(term)s OR s.topic ILIKE %(term)s
           OR s.canonical_alias ILIKE %(term)s)
      AND (%(types)s::text[] IS NULL OR s.room_type = ANY (%(types)s::text[])
           OR (%(untyped)s AND s.room_type IS NULL))"""

_FORWARDS = f"""SELECT {_COLUMNS} {_MATCHING}
      AND (%(members)s::int IS NULL OR (s.joined_members, -r.room) < (%(members)s::int, -%(room)s::bigint))
    ORDER BY s.joined_members DESC, r.room LIMIT %(limit)s"""

_BACKWARDS = f"""SELECT {_COLUMNS} {_MATCHING}
      AND (s.joined_members, -r.room) > (%(members)s::int, -%(room)s::bigint)
    ORDER BY s.joined_members, r.room DESC LIMIT %(limit)s"""

_COUNT = "SELECT count(*) FROM published_rooms JOIN room_summaries s USING (room) WHERE s.joined_members > 0"
_PUBLISHED_AMONG = "SELECT room FROM published_rooms WHERE room = ANY (%s::bigint[])"
_IS_PUBLISHED = "SELECT EXISTS (SELECT FROM published_rooms WHERE room = %s)"
_PUBLISH = "INSERT INTO published_rooms (room) VALUES (%s) ON CONFLICT DO NOTHING"
_WITHDRAW = "DELETE FROM published_rooms WHERE room = %s"


class ListedRoom(NamedTuple):
    """A row of `room_summaries` with the room it is of."""

    room: int
    room_id: str
    version: str
    name: str | None
    topic: str | None
    canonical_alias: str | None
    avatar_url: str | None
    join_rule: str
    guest_can_join: bool
    world_readable: bool
    room_type: str | None
    encryption: str | None
    joined_members: int


class ListPlace(NamedTuple):
    """A room's place in the list, which goes by joined members, most first, then by age."""

    members: int
    room: int


class PublishedRoomStore:
    """Reads and changes the list."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        *,
        term: str | None,
        room_types: Sequence[str | None] | None,
        place: ListPlace | None,
        backwards: bool,
        limit: int,
    ) -> list[ListedRoom]:
        """Up to `limit` rooms behind a place (or before it), in the list's order.

        `term`: part of the name, topic or canonical alias, in any case. `room_types`: None among them stands for rooms
        without a type; no list for every room.
        """
        params = {
            "term": None if term is None else f"%{_escaped(term)}%",
            "types": None if room_types is None else [name for name in room_types if name is not None],
            "untyped": room_types is not None and None in room_types,
            "members": None if place is None else place.members,
            "room": None if place is None else place.room,
            "limit": limit,
        }
        sql = _BACKWARDS if backwards else _FORWARDS
        rows = [ListedRoom._make(row) for row in await self._database.fetch("published_rooms", sql, params)]
        return rows[::-1] if backwards else rows

    async def count(self) -> int:
        """How many rooms are on the list."""
        row = await self._database.fetch_one("published_rooms_count", _COUNT)
        assert row is not None
        return int(row[0])

    async def is_published(self, room: int) -> bool:
        """Whether the room is on the list."""
        row = await self._database.fetch_one("published_rooms_get", _IS_PUBLISHED, (room,))
        return row is not None and bool(row[0])

    async def published_among(self, rooms: Sequence[int]) -> set[int]:
        """Those of the rooms that are on the list."""
        rows = await self._database.fetch("published_rooms_among", _PUBLISHED_AMONG, (list(rooms),))
        return {int(row[0]) for row in rows}

    async def publish(self, room: int) -> None:
        """Put the room on the list."""
        await self._database.execute("published_rooms_add", _PUBLISH, (room,))

    async def withdraw(self, room: int) -> None:
        """Take the room off the list."""
        await self._database.execute("published_rooms_remove", _WITHDRAW, (room,))


def _escaped(term: str) -> str:
    """The term as a LIKE pattern that matches only itself."""
    return term.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
