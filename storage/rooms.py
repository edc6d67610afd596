# SPDX-License-Identifier: Apache-2.0
"""The rooms table and what is loaded with a room: its head, its state without members, its members.

Owns finding rooms and loading them whole, many in one statement, so that what comes back is one moment of the
database. Writing rooms is the stream's (`storage/stream.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from msgspec import Struct

from storage.database import Database
from storage.events import EVENT_COLUMNS, EVENT_JOINS, StoredEvent

_JSON_COLUMNS = EVENT_COLUMNS.replace("e.auth_chain", "encode(e.auth_chain, 'hex')")

_LOAD = f"""
SELECT r.room, r.room_id, r.version, r.head, r.depth, r.next_ordinal, r.snapshot, r.next_snapshot,
    r.snapshot_weight, r.position,
    (SELECT json_agg(json_build_array(e.event_id, e.ordinal) ORDER BY e.ordinal)
     FROM events e WHERE e.room = r.room AND e.ordinal = ANY (r.extremities))::text,
    (SELECT json_agg(json_build_array({_JSON_COLUMNS}))
     FROM current_state c JOIN events e USING (room, ordinal) {EVENT_JOINS}
     WHERE c.room = r.room AND c.type <> 'm.room.member')::text,
    (SELECT json_agg(json_build_array(m.user_id, m.membership, m.ordinal, m.since))
     FROM memberships m WHERE m.room = r.room AND m.until IS NULL)::text,
    r.oldest_position,
    (SELECT to_json(p.servers) FROM partial_rooms p WHERE p.room = r.room)::text
FROM rooms r WHERE r.room = ANY (%s) OR r.room_id = ANY (%s)
"""  # noqa: S608

MOST_NEW = 100
"""Events of a room that are worth reading to bring it up to date; beyond that it is loaded as a whole."""

_SINCE = f"""
SELECT r.room, r.head, r.depth, r.next_ordinal, r.snapshot, r.next_snapshot, r.snapshot_weight, r.position,
    r.oldest_position,
    (SELECT json_agg(json_build_array(x.event_id, x.ordinal) ORDER BY x.ordinal)
     FROM events x WHERE x.room = r.room AND x.ordinal = ANY (r.extremities))::text,
    EXISTS (SELECT FROM partial_rooms p WHERE p.room = r.room),
    (SELECT json_agg(json_build_array({_JSON_COLUMNS}) ORDER BY e.position)
     FROM (SELECT * FROM events n WHERE n.room = r.room AND n.position > w.after
           ORDER BY n.position LIMIT {MOST_NEW + 1}) AS e {EVENT_JOINS})::text
FROM unnest(%s::bigint[], %s::bigint[]) AS w(room, after) JOIN rooms r USING (room)
"""  # noqa: S608

_STRUCK = f"SELECT {EVENT_COLUMNS} FROM events e {EVENT_JOINS} WHERE e.event_id = ANY (%s) AND e.redacted_by = ANY (%s)"  # noqa: S608

_KEYS = "SELECT room_id, room FROM rooms WHERE room_id = ANY (%s)"
_IDS = "SELECT room, room_id FROM rooms WHERE room = ANY (%s)"


class Member(NamedTuple):
    """A member's standing: `ordinal` is the newest member event, `since` where the interval began."""

    membership: str
    ordinal: int
    since: int


class LoadedRoom(Struct, frozen=True):
    """A room as the database holds it at one moment."""

    room: int
    room_id: str
    version: str
    head: int
    depth: int
    next_ordinal: int
    snapshot: int
    next_snapshot: int
    snapshot_weight: int
    position: int
    extremities: list[tuple[str, int]]
    state: list[StoredEvent]
    members: dict[str, Member]
    oldest_position: int
    partial_servers: frozenset[str] | None = None
    """Where only a part of the members is known: the servers in the room."""


class NewsOfRoom(Struct, frozen=True):
    """How a room stands at one moment, and what was written above a position.

    The fields are those of `LoadedRoom`. `events` is None if there are too many.
    """

    room: int
    head: int
    depth: int
    next_ordinal: int
    snapshot: int
    next_snapshot: int
    snapshot_weight: int
    position: int
    oldest_position: int
    extremities: list[tuple[str, int]]
    partial: bool
    events: list[StoredEvent] | None
    """In the order of positions, those that are not shown (`flags`), too."""


class RoomStore:
    """Finds and loads rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, *, rooms: Sequence[int] = (), room_ids: Sequence[str] = ()) -> list[LoadedRoom]:
        """The rooms of those keys or ids; unknown ones are absent."""
        rows = await self._database.fetch("rooms_load", _LOAD, (list(rooms), list(room_ids)))
        return [_loaded(row) for row in rows]

    async def since(self, wanted: Sequence[tuple[int, int]]) -> list[NewsOfRoom]:
        """Of each (room, position): how the room stands, and what was written there above the position."""
        params = ([room for room, _ in wanted], [after for _, after in wanted])
        return [_news(row) for row in await self._database.fetch("rooms_since", _SINCE, params)]

    async def struck(self, targets: Sequence[str], redactions: Sequence[str]) -> list[StoredEvent]:
        """Of those targets, what one of those redactions has struck."""
        rows = await self._database.fetch("rooms_struck", _STRUCK, (list(targets), list(redactions)))
        return [StoredEvent._make(row) for row in rows]

    async def keys(self, room_ids: Sequence[str]) -> dict[str, int]:
        """Room ids to keys."""
        rows = await self._database.fetch("room_keys", _KEYS, (list(room_ids),))
        return {str(room_id): int(room) for room_id, room in rows}

    async def ids(self, rooms: Sequence[int]) -> dict[int, str]:
        """Keys to room ids."""
        found = await self._database.fetch("room_ids", _IDS, (list(rooms),))
        return {int(room): str(room_id) for room, room_id in found}


def _loaded(row: tuple[Any, ...]) -> LoadedRoom:
    extremities, state, members = (orjson.loads(text) if text else [] for text in row[10:13])
    values: list[Any] = [
        *row[:10],
        [(event_id, ordinal) for event_id, ordinal in extremities],
        [_state_event(event) for event in state],
        {user_id: Member(*standing) for user_id, *standing in members},
        row[13],
        None if row[14] is None else frozenset(orjson.loads(row[14])),
    ]
    return LoadedRoom(*values)


def _news(row: tuple[Any, ...]) -> NewsOfRoom:
    extremities, events = (orjson.loads(text) if text else [] for text in (row[9], row[11]))
    values: list[Any] = [
        *row[:9],
        [(event_id, ordinal) for event_id, ordinal in extremities],
        row[10],
        None if len(events) > MOST_NEW else [_state_event(event) for event in events],
    ]
    return NewsOfRoom(*values)


def _state_event(values: list[Any]) -> StoredEvent:
    if values[16] is not None:
        values[16] = bytes.fromhex(values[16])
    return StoredEvent._make(values)
