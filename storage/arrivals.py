# SPDX-License-Identifier: Apache-2.0
"""Storing what comes with a join elsewhere: the room before this server is in it, and events that nobody is shown yet.

Owns the statements outside the stream: they change nothing that any reader sees, so they hold up no commit. The commit
by which a room becomes live is `write_arrival` (migration 0009).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from storage.database import Database, Prepared

_STUB = "SELECT room_stub(%s, %s)"

_RESERVE = """UPDATE rooms SET head = head + 1, next_ordinal = next_ordinal + %s WHERE room = %s
    RETURNING next_ordinal - %s"""

_KNOWN = Prepared(
    """SELECT room, event_id, ordinal, flags, type, state_key, auth_chain FROM events
    WHERE event_id = ANY (%s::text[])"""
)

_STORE = """INSERT INTO events (room, ordinal, position, depth, origin_server_ts, visibility, flags, event_id, type,
        state_key, sender, auth_chain, pdu)
    SELECT %s, x.ordinal, 0, x.depth, x.origin_server_ts, x.visibility, x.flags, x.event_id, x.type, x.state_key,
        x.sender, decode(x.auth_chain, 'base64'), x.pdu
    FROM json_to_recordset(%s) AS x(
        ordinal int, depth bigint, origin_server_ts bigint, visibility smallint, flags smallint, event_id text,
        type text, state_key text, sender text, auth_chain text, pdu text)
    ORDER BY x.event_id  -- two that store the same events wait for each other in one direction only
    ON CONFLICT (event_id) DO UPDATE SET auth_chain = excluded.auth_chain, flags = excluded.flags,
        visibility = excluded.visibility
    WHERE events.room = excluded.room AND events.flags = 4 AND events.auth_chain IS NULL
    RETURNING ordinal"""


class KnownEvent(NamedTuple):
    """An event that is stored, without its text."""

    room: int
    event_id: str
    ordinal: int
    flags: int
    type: str
    state_key: str | None
    auth_chain: bytes | None


class OtherVersion(Exception):
    """The room is known here, and not of the version that was said."""


class ArrivalStore:
    """Writes rooms and events ahead of an arrival."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def stub(self, room_id: str, version: str) -> int:
        """The room's key; if it is not known here, it is from now on, by nothing but its id and version.

        Raises OtherVersion.
        """
        row = await self._database.fetch_one("room_stub", _STUB, (room_id, version), retry=True)
        assert row is not None
        if row[0] is None:
            raise OtherVersion(f"{room_id} is not of version {version}")
        return int(row[0])

    async def reserve_ordinals(self, room: int, count: int) -> int:
        """The first of `count` ordinals that nobody else will use. Who writes the room meanwhile loses a race."""
        row = await self._database.fetch_one("reserve_ordinals", _RESERVE, (count, room, count), retry=True)
        assert row is not None
        return int(row[0])

    async def known(self, event_ids: Sequence[str]) -> dict[str, KnownEvent]:
        """Those of the events that are stored, whatever their room."""
        if not event_ids:
            return {}
        rows = await self._database.fetch("arrival_known", _KNOWN, (list(event_ids),))
        return {row[1]: KnownEvent._make(row) for row in rows}

    async def store(self, room: int, rows: Sequence[Mapping[str, Any]]) -> int:
        """Store events that are no part of the timeline; how many now stand at the ordinal they were given.

        One that is there at its ordinal with nothing said of its auth chain is completed; any other that is there stays
        as it is, and does not count.
        """
        if not rows:
            return 0
        given = {row["ordinal"] for row in rows}
        found = await self._database.fetch(
            "arrival_store", _STORE, (room, orjson.dumps(list(rows)).decode()), retry=False
        )
        return sum(row[0] in given for row in found)
