# SPDX-License-Identifier: Apache-2.0
"""The receipts table: how far each user has read each room.

Owns reading it; rows are written through the stream (`write_receipts` in migration 0003), which also tells every
process of each receipt that moved, on the channel `receipts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from storage.database import Database, Prepared

CHANNEL = "receipts"
"""Notifications of receipts that moved; `heard` reads their payload."""


class Receipt(NamedTuple):
    """One row of `receipts`."""

    position: int
    """Where the receipt stands in the stream."""
    room: int
    user_id: str
    private: bool
    thread: str
    """Empty: unthreaded; `main`; or the event id of the thread's root."""
    event_id: str
    place: int
    """Stream position of the event."""
    ts: int
    """When it was sent, in milliseconds."""


_COLUMNS = "position, room, user_id, private, thread, event_id, place, ts"

_SINCE = Prepared(
    f"""SELECT {_COLUMNS} FROM receipts
    WHERE room = ANY (%s::bigint[]) AND position > %s AND position <= %s AND (NOT private OR user_id = %s)
    ORDER BY room, position"""  # noqa: S608
)
_PUBLIC_OF = f"""SELECT {_COLUMNS} FROM unnest(%s::bigint[], %s::text[]) AS w(room, user_id)
    JOIN receipts USING (room, user_id) WHERE NOT private"""  # noqa: S608
_OF_USER = f"SELECT {_COLUMNS} FROM receipts WHERE room = %s AND user_id = %s"  # noqa: S608


class ReceiptStore:
    """Reads receipts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def since(self, rooms: Sequence[int], user_id: str, since: int, upto: int) -> list[Receipt]:
        """The receipts of the rooms that moved in since < position ≤ upto, of others the public ones only."""
        rows = await self._database.fetch("receipts_since", _SINCE, (list(rooms), since, upto, user_id))
        return [Receipt._make(row) for row in rows]

    async def of_user(self, user_id: str, room: int) -> list[Receipt]:
        """All of a user's receipts in a room."""
        rows = await self._database.fetch("receipts_of_user", _OF_USER, (room, user_id))
        return [Receipt._make(row) for row in rows]

    async def public_of(self, readers: Sequence[tuple[int, str]]) -> list[Receipt]:
        """The public receipts of each (room, user)."""
        rooms, users = [room for room, _ in readers], [user_id for _, user_id in readers]
        rows = await self._database.fetch("receipts_public_of", _PUBLIC_OF, (rooms, users))
        return [Receipt._make(row) for row in rows]


def heard(payload: str) -> Receipt:
    """The receipt in a notification."""
    return Receipt._make(orjson.loads(payload))
