# SPDX-License-Identifier: Apache-2.0
"""Rooms of which this server knows only a part of the members: which they are, and which process fills them.

Rows come and go in the stream's commits (`write_arrival`, migration 0009); this module reads them and hands out the
work, one process at a time by a lease that lapses with the process.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from storage.database import Database


class PartialRoom(NamedTuple):
    """A room to be filled."""

    room: int
    room_id: str
    version: str
    event_id: str
    """The join event; the state before it is what is missing."""
    snapshot: int
    """That state, as far as it is known."""
    destination: str
    """The server that let us in."""
    servers: list[str]
    attempts: int


class Delta(NamedTuple):
    """A snapshot that was made since the room was entered."""

    snapshot: int
    parent: int | None
    added: list[int]
    removed: list[int]
    checkpoint: bytes | None


class StateEntry(NamedTuple):
    """What an ordinal stands for."""

    ordinal: int
    event_id: str
    type: str
    state_key: str


_TAKE = """UPDATE partial_rooms p SET leased_until = now() + make_interval(secs => %s)
    FROM rooms r
    WHERE r.room = p.room AND p.room = (
        SELECT q.room FROM partial_rooms q WHERE q.leased_until < now() AND q.not_before <= now()
        ORDER BY q.not_before FOR UPDATE SKIP LOCKED LIMIT 1)
    RETURNING p.room, r.room_id, r.version, p.event_id, p.snapshot, p.destination, p.servers, p.attempts"""

_RENEW = """UPDATE partial_rooms SET leased_until = now() + make_interval(secs => %s)
    WHERE room = %s AND event_id = %s"""

_POSTPONE = """UPDATE partial_rooms SET attempts = attempts + 1, leased_until = '-infinity',
    not_before = now() + make_interval(secs => %s) WHERE room = %s AND event_id = %s"""

_RELEASE = "UPDATE partial_rooms SET leased_until = '-infinity' WHERE room = %s AND event_id = %s"

_STANDS = "SELECT EXISTS (SELECT FROM partial_rooms WHERE room = %s)"

_WAIT = """SELECT extract(epoch FROM min(greatest(not_before, leased_until)) - now())::float8 FROM partial_rooms"""

_DELTAS = """SELECT snapshot, parent, added, removed, checkpoint FROM state_snapshots
    WHERE room = %s AND snapshot >= %s ORDER BY snapshot"""

_ENTRIES = """SELECT ordinal, event_id, type, state_key FROM events
    WHERE room = %s AND ordinal = ANY (%s::int[]) AND state_key IS NOT NULL"""

_SINCE = """SELECT ordinal FROM events WHERE room = %s AND position > 0 AND flags = 0
    AND position > (SELECT e.position FROM events e WHERE e.event_id = %s) ORDER BY position"""


class PartialRoomStore:
    """Reads partial rooms and leases them.

    Who works at a room may do so while it is left and entered again: nothing that is said of the entry it works at
    concerns the new one.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, seconds: float) -> PartialRoom | None:
        """A room that is due and that nobody works at, leased for so long; None if there is none."""
        row = await self._database.fetch_one("partial_take", _TAKE, (seconds,), retry=False)
        return None if row is None else PartialRoom._make(row)

    async def renew(self, entered: PartialRoom, seconds: float) -> None:
        """Keep the lease while working."""
        await self._database.execute("partial_renew", _RENEW, (seconds, entered.room, entered.event_id))

    async def postpone(self, entered: PartialRoom, seconds: float) -> None:
        """It did not work; let it be tried again later."""
        params = (seconds, entered.room, entered.event_id)
        await self._database.execute("partial_postpone", _POSTPONE, params)

    async def release(self, entered: PartialRoom) -> None:
        """Let it be tried again at once, by anyone."""
        await self._database.execute("partial_release", _RELEASE, (entered.room, entered.event_id))

    async def is_partial(self, room: int) -> bool:
        """Whether the room is still known in part only."""
        row = await self._database.fetch_one("partial_stands", _STANDS, (room,))
        return row is not None and bool(row[0])

    async def seconds_until_due(self) -> float | None:
        """How long until a room is due (0 or less: one is); None if there is none to fill."""
        row = await self._database.fetch_one("partial_wait", _WAIT)
        return None if row is None or row[0] is None else float(row[0])

    async def deltas_since(self, room: int, snapshot: int) -> list[Delta]:
        """Every snapshot from that one on, in the order they were made."""
        rows: list[tuple[Any, ...]] = await self._database.fetch("partial_deltas", _DELTAS, (room, snapshot))
        return [Delta._make(row) for row in rows]

    async def entries(self, room: int, ordinals: list[int]) -> list[StateEntry]:
        """What those ordinals stand for; messages are left out."""
        if not ordinals:
            return []
        return [
            StateEntry._make(row)
            for row in await self._database.fetch("partial_entries", _ENTRIES, (room, ordinals))
        ]

    async def shown_since(self, room: int, event_id: str) -> list[int]:
        """Ordinals of the events that entered the room's timeline after that one, in their order."""
        rows = await self._database.fetch("partial_shown_since", _SINCE, (room, event_id))
        return [int(row[0]) for row in rows]
