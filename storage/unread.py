# SPDX-License-Identifier: Apache-2.0
"""What may be unread: how far a user has read many rooms, and the events from there on. Owns the queries of counts.

Nothing is stored for counting: a row per member and event is what other servers' tables grow large with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from storage.database import Database, Prepared
from storage.packing import pdu_of


class UnreadRange(NamedTuple):
    """Which events of a room are wanted: after < position ≤ upto, of those up to `main` only what is in relation to
    another event and so might be in a thread.
    """

    room: int
    after: int
    main: int
    upto: int


class UnreadEvent(NamedTuple):
    """As much of an event as says whether it notifies."""

    room: int
    position: int
    event_id: str
    type: str
    state_key: str | None
    sender: str
    pdu: str


# In canonical JSON a key is spelled in one way only; a mention of it in a text costs a look, no more.
_SINCE = Prepared(
    f"""SELECT e.room, e.position, e.event_id, e.type, e.state_key, e.sender, {pdu_of("e")}
    FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]) AS w(room, after, main, upto)
    CROSS JOIN LATERAL (
        SELECT * FROM events n
        WHERE n.room = w.room AND n.position > w.after AND n.position <= w.upto AND n.flags = 0
        ORDER BY n.position DESC LIMIT %s
    ) AS e
    WHERE e.redacted_by IS NULL AND (e.position > w.main OR strpos(e.pdu, '"m.relates_to"') > 0)
    ORDER BY e.room, e.position"""  # noqa: S608
)


_READ = Prepared(
    """SELECT room, thread, max(place) FROM receipts WHERE room = ANY (%s::bigint[]) AND user_id = %s
    GROUP BY room, thread"""
)


class UnreadStore:
    """Reads receipts and events for counting."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, user_id: str, rooms: Sequence[int]) -> dict[int, list[tuple[str, int]]]:
        """By room: for each thread ('' unthreaded, 'main', or a root's id) the position up to which it was read."""
        found: dict[int, list[tuple[str, int]]] = {}
        for room, thread, place in await self._database.fetch("unread_read", _READ, (list(rooms), user_id)):
            found.setdefault(room, []).append((thread, place))
        return found

    async def events(self, ranges: Sequence[UnreadRange], limit: int) -> dict[int, list[UnreadEvent]]:
        """By room, oldest first, what is wanted of the newest `limit` events of each range; redacted ones left out."""
        found: dict[int, list[UnreadEvent]] = {wanted.room: [] for wanted in ranges}
        if ranges:
            columns = [list(column) for column in zip(*ranges, strict=True)]
            for row in await self._database.fetch("unread_events", _SINCE, (*columns, limit)):
                event = UnreadEvent._make(row)
                found[event.room].append(event)
        return found
