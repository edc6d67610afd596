# SPDX-License-Identifier: Apache-2.0
"""The aliases of this server's domain, read. They are written in the stream's commits (migration 0001)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from storage.database import Database


class RoomAlias(NamedTuple):
    """An alias, the room it points to, and the user who made it."""

    alias: str
    room_id: str
    creator: str


_GET = "SELECT alias, room_id, creator FROM room_aliases WHERE alias = ANY (%s)"
_OF_ROOM = "SELECT alias, room_id, creator FROM room_aliases WHERE room_id = %s ORDER BY alias"


class RoomAliasStore:
    """Reads aliases."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, aliases: Sequence[str]) -> dict[str, RoomAlias]:
        """Those of the aliases that exist."""
        rows = await self._database.fetch("room_aliases_get", _GET, (list(aliases),))
        return {row[0]: RoomAlias._make(row) for row in rows}

    async def of_room(self, room_id: str) -> list[RoomAlias]:
        """The aliases that point to a room, in order."""
        rows = await self._database.fetch("room_aliases_of_room", _OF_ROOM, (room_id,))
        return [RoomAlias._make(row) for row in rows]
