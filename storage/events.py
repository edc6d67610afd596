# SPDX-License-Identifier: Apache-2.0
"""The events table: stored events out, by id, by ordinal and by place in a timeline.

Owns every query that reads whole events. Writing them is the stream's (`storage/stream.py`); what of an event a
user may see is decided above, never here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from storage.database import Database
from storage.packing import pdu_of

REJECTED = 1
SOFT_FAILED = 2
OUTLIER = 4
HIDDEN = 8
"""A part of the graph like any other, but nothing for people (`org.matrix.dummy_event`)."""


class StoredEvent(NamedTuple):
    """One row of `events`, with what its `unsigned` needs of two others.

    A named tuple because thousands are made per second: it is built from a row in one C call.
    """

    room: int
    ordinal: int
    position: int
    depth: int
    origin_server_ts: int
    snapshot: int | None
    replaces: int | None
    visibility: int
    flags: int
    event_id: str
    type: str
    state_key: str | None
    sender: str
    redacted_by: str | None
    transaction_id: str | None
    device_id: str | None
    auth_chain: bytes | None
    pdu: str
    """Canonical JSON of the event as the federation knows it, redacted if `redacted_by` is set."""
    replaced_pdu: str | None
    """The state event it replaced, for `unsigned.prev_content`."""
    redaction_pdu: str | None
    """The redaction that struck it, for `unsigned.redacted_because`."""
    replaced_event_id: str | None = None
    replaced_position: int | None = None
    replaced_visibility: int | None = None
    """Of the event it replaced: for `unsigned.replaces_state`, and for who may see its content."""
    current_snapshot: int | None = None
    """The room's state once the event had been received; None if it was never received as news."""
    after_snapshot: int | None = None
    """The state after it, where it did not simply continue the room's present state, even if that is the same."""
    outbound: bool = False
    """Whether this server must spread it to the others in the room."""

    @property
    def turns(self) -> bool:
        """Whether what became of the room's state by it shows in `current_snapshot` only: it came on a branch."""
        return self.after_snapshot is not None

    @property
    def snapshot_after(self) -> int | None:
        """The state after the event on its own branch; None if its place is unknown."""
        if self.flags & OUTLIER:
            return None
        if self.state_key is None or self.flags & REJECTED:
            return self.snapshot
        return self.current_snapshot if self.after_snapshot is None else self.after_snapshot


EVENT_COLUMNS = f"""e.room, e.ordinal, e.position, e.depth, e.origin_server_ts, e.snapshot, e.replaces, e.visibility,
    e.flags, e.event_id, e.type, e.state_key, e.sender, e.redacted_by, e.transaction_id, e.device_id, e.auth_chain,
    {pdu_of("e")}, {pdu_of("p")}, {pdu_of("d")}, p.event_id, p.position, p.visibility, e.current_snapshot,
    e.after_snapshot, e.outbound"""
"""The select list of a `StoredEvent`, over `EVENT_JOINS`."""

EVENT_JOINS = """LEFT JOIN events p ON p.room = e.room AND p.ordinal = e.replaces
    LEFT JOIN events d ON d.event_id = e.redacted_by"""

_BY_IDS = f"SELECT {EVENT_COLUMNS} FROM events e {EVENT_JOINS} WHERE e.event_id = ANY (%s)"  # noqa: S608

_BY_ORDINALS = f"""SELECT {EVENT_COLUMNS}
    FROM unnest(%s::bigint[], %s::int[]) AS w(room, ordinal) JOIN events e USING (room, ordinal) {EVENT_JOINS}"""  # noqa: S608

_BY_TRANSACTIONS = "SELECT transaction::text, event_id FROM events WHERE transaction = ANY (%s::uuid[])"

_TIMELINES = f"""SELECT {EVENT_COLUMNS}
    FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS w(room, after, upto)
    CROSS JOIN LATERAL (
        SELECT * FROM events n
        WHERE n.room = w.room AND n.position > w.after AND n.position <= w.upto AND n.flags = 0
        ORDER BY n.position DESC LIMIT %s
    ) AS e {EVENT_JOINS}
    ORDER BY e.room, e.position"""  # noqa: S608

_PAGE_BACKWARDS = f"""SELECT {EVENT_COLUMNS}
    FROM (
        SELECT * FROM events n
        WHERE n.room = %s AND (n.depth, n.position) < (%s, %s) AND n.flags = 0
        ORDER BY n.depth DESC, n.position DESC LIMIT %s
    ) AS e {EVENT_JOINS} ORDER BY e.depth DESC, e.position DESC"""  # noqa: S608

_PAGE_FORWARDS = f"""SELECT {EVENT_COLUMNS}
    FROM (
        SELECT * FROM events n
        WHERE n.room = %s AND (n.depth, n.position) >= (%s, %s) AND n.flags = 0
        ORDER BY n.depth, n.position LIMIT %s
    ) AS e {EVENT_JOINS} ORDER BY e.depth, e.position"""  # noqa: S608

_CURRENT_STATE = f"""SELECT {EVENT_COLUMNS}
    FROM current_state c JOIN events e USING (room, ordinal) {EVENT_JOINS}
    WHERE c.room = ANY (%s)"""  # noqa: S608


class TimelinePlace(NamedTuple):
    """A place between events of a room's timeline, which is ordered by depth, then position.

    It lies just before whatever event stands at these numbers.
    """

    depth: int
    position: int


class EventStore:
    """Reads events. Every method takes and gives many at once where callers could want many."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_ids(self, event_ids: Sequence[str]) -> dict[str, StoredEvent]:
        """The events of those ids that are known here, whatever their room or standing."""
        if not event_ids:
            return {}
        rows = await self._database.fetch("events_by_ids", _BY_IDS, (list(event_ids),))
        return {event.event_id: event for event in _events(rows)}

    async def by_ordinals(self, wanted: Iterable[tuple[int, int]]) -> list[StoredEvent]:
        """The events at those (room, ordinal) pairs, in no particular order."""
        pairs = list(wanted)
        if not pairs:
            return []
        params = ([room for room, _ in pairs], [ordinal for _, ordinal in pairs])
        return _events(await self._database.fetch("events_by_ordinals", _BY_ORDINALS, params))

    async def ids_by_transactions(self, transactions: Sequence[str]) -> dict[str, str]:
        """Which of those transaction digests stand, with the event id each gave."""
        rows = await self._database.fetch("events_by_transactions", _BY_TRANSACTIONS, (list(transactions),))
        return {str(row[0]): str(row[1]) for row in rows}

    async def timelines(
        self, ranges: Sequence[tuple[int, int, int]], limit: int
    ) -> dict[int, list[StoredEvent]]:
        """For each (room, after, upto): its newest `limit` events with after < position ≤ upto, oldest first."""
        if not ranges:
            return {}
        rooms, after, upto = (list(column) for column in zip(*ranges, strict=True))
        rows = await self._database.fetch("event_timelines", _TIMELINES, (rooms, after, upto, limit))
        timelines: dict[int, list[StoredEvent]] = {room: [] for room in rooms}
        for event in _events(rows):
            timelines[event.room].append(event)
        return timelines

    async def page(
        self, room: int, start: TimelinePlace, *, backwards: bool, limit: int
    ) -> list[StoredEvent]:
        """Up to `limit` events before (or after) a place, nearest first."""
        sql = _PAGE_BACKWARDS if backwards else _PAGE_FORWARDS
        return _events(
            await self._database.fetch("events_page", sql, (room, start.depth, start.position, limit))
        )

    async def current_state(self, rooms: Sequence[int]) -> dict[int, list[StoredEvent]]:
        """The whole current state of each room, members included."""
        found: dict[int, list[StoredEvent]] = {room: [] for room in rooms}
        for event in _events(
            await self._database.fetch("events_current_state", _CURRENT_STATE, (list(rooms),))
        ):
            found[event.room].append(event)
        return found


def _events(rows: list[tuple[Any, ...]]) -> list[StoredEvent]:
    return [StoredEvent._make(row) for row in rows]
