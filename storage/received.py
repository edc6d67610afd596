# SPDX-License-Identifier: Apache-2.0
"""What a room must be asked before it takes events from outside: who waits for them, what states and citations hold.

Owns these reads and the writing of history (`commit_history`, migration 0008). Events that are news are written with
the stream's commits (`storage/stream.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import psycopg2.errors

from storage.database import Database, Prepared
from storage.events import EVENT_COLUMNS, EVENT_JOINS, StoredEvent
from storage.stream import AlreadyStored

_AWAITED = Prepared(
    """SELECT g.missing_event_id, e.ordinal, e.flags, false FROM event_gaps g JOIN events e USING (room, ordinal)
    WHERE g.room = %s AND g.missing_event_id = ANY (%s::text[])
    UNION ALL
    SELECT w.redacts, w.ordinal, 0, true FROM waiting_redactions w WHERE w.room = %s AND w.redacts = ANY (%s::text[])"""
)

_NAMED = """SELECT room, event_id, ordinal, flags, type, state_key, auth_chain IS NOT NULL FROM events
    WHERE event_id = ANY (%s::text[])"""

_KEYS = (
    "SELECT ordinal, type, coalesce(state_key, '') FROM events WHERE room = %s AND ordinal = ANY (%s::int[])"
)

_CITED = """SELECT DISTINCT auth_chain FROM events
    WHERE room = %s AND ordinal = ANY (%s::int[]) AND auth_chain IS NOT NULL"""

_CHAINS = "SELECT ordinal, auth_chain FROM events WHERE room = %s AND ordinal = ANY (%s::int[])"

_POWER_LEVELS = f"""SELECT {EVENT_COLUMNS}
    FROM unnest(%s::int[]) AS w(ordinal) JOIN events e ON e.room = %s AND e.ordinal = w.ordinal {EVENT_JOINS}
    WHERE e.type = 'm.room.power_levels' AND e.state_key = ''"""  # noqa: S608

_HEAD = "SELECT head FROM rooms WHERE room = %s"

# It takes no position, but other processes must hear that the room is not what they hold.
_HISTORY = """SELECT done, CASE WHEN done THEN pg_notify('stream', json_build_object(
        'origin', %s, 'before', 0, 'count', 0, 'rooms', ARRAY[%s::bigint], 'users', '{}'::text[], 'whole', true
    )::text) END
    FROM commit_history(%s, %s, %s, %s) AS done"""


class Awaiting(NamedTuple):
    """Who waits for an event: children that name it, as (ordinal, flags), and redactions of it, as ordinals."""

    children: list[tuple[int, int]]
    redactions: list[int]


class NamedEvent(NamedTuple):
    """An event that is stored, as much of it as places it in a state."""

    room: int
    event_id: str
    ordinal: int
    flags: int
    type: str
    state_key: str | None
    judged: bool
    """Whether it is known what it cites."""


class ReceivedStore:
    """Reads for the intake, and writes history."""

    def __init__(self, database: Database, origin: str) -> None:
        """`origin` names this process to the others."""
        self._database = database
        self._origin = origin

    async def awaiting(self, room: int, event_ids: Sequence[str]) -> dict[str, Awaiting]:
        """Who waits for those events; those nobody waits for are absent."""
        found: dict[str, Awaiting] = {}
        ids = list(event_ids)
        for event_id, ordinal, flags, redaction in await self._database.fetch(
            "received_awaiting", _AWAITED, (room, ids, room, ids)
        ):
            waiting = found.setdefault(event_id, Awaiting([], []))
            if redaction:
                waiting.redactions.append(ordinal)
            else:
                waiting.children.append((ordinal, flags))
        return found

    async def named(self, event_ids: Sequence[str]) -> dict[str, NamedEvent]:
        """Those of the events that are stored, whatever their room."""
        rows = await self._database.fetch("received_named", _NAMED, (list(event_ids),))
        return {row[1]: NamedEvent._make(row) for row in rows}

    async def keys(self, room: int, ordinals: Iterable[int]) -> dict[int, tuple[str, str]]:
        """Type and state key of state events by ordinal."""
        rows = await self._database.fetch("received_keys", _KEYS, (room, list(ordinals)))
        return {ordinal: (event_type, state_key) for ordinal, event_type, state_key in rows}

    async def chains_of_all(self, room: int, ordinals: Iterable[int]) -> list[bytes]:
        """The auth chains of those events, each different one once (most members cite the same)."""
        rows = await self._database.fetch("received_cited", _CITED, (room, list(ordinals)))
        return [row[0] for row in rows]

    async def chains(self, room: int, ordinals: Iterable[int]) -> dict[int, bytes]:
        """The auth chain of each of those events that has one."""
        rows = await self._database.fetch("received_chains", _CHAINS, (room, list(ordinals)))
        return {ordinal: chain for ordinal, chain in rows if chain is not None}

    async def power_levels(self, room: int, ordinals: Iterable[int]) -> list[StoredEvent]:
        """The power levels among those events."""
        rows = await self._database.fetch("received_power_levels", _POWER_LEVELS, (list(ordinals), room))
        return [StoredEvent._make(row) for row in rows]

    async def head(self, room: int) -> int:
        """The room's compare-and-swap counter now."""
        row = await self._database.fetch_one("received_head", _HEAD, (room,))
        return 0 if row is None else int(row[0])

    async def commit_history(
        self,
        room: Mapping[str, Any],
        events: Sequence[Mapping[str, Any]],
        state: Mapping[str, Any],
        redactions: Sequence[Mapping[str, Any]],
    ) -> bool:
        """Write history by compare-and-swap on the room's head; False if it had moved.

        Safe to write again: then the head has moved. Raises AlreadyStored.
        """
        try:
            row = await self._database.fetch_one(
                "received_history",
                _HISTORY,
                (
                    self._origin,
                    room["room"],
                    *(orjson.dumps(value).decode() for value in (room, events, state, redactions)),
                ),
                retry=False,
            )
        except psycopg2.errors.UniqueViolation as error:
            raise AlreadyStored from error
        assert row is not None
        return bool(row[0])
