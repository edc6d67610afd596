# SPDX-License-Identifier: Apache-2.0
"""Events of other servers that wait for events before them, and which process works at whose.

Owns the tables `inbound_pdus` and `inbound_rooms`. How an event gets what it lacks is `federation.inbound`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from storage.database import Database, JsonRows

EARLY: Final = -1
"""`attempts` of an event that came before this server was in its room. It is only handed out as such, and nothing but
`admit` has it wait as others do."""


class WaitingPdu(NamedTuple):
    """One event that waits. `pdu` is canonical JSON as it was checked when it came."""

    event_id: str
    origin: str
    attempts: int
    pdu: str


class KnownEvent(NamedTuple):
    """What is known of a stored event without its text; `state_key` None: no state."""

    flags: int
    type: str
    state_key: str | None


# Counted as it stands before this statement; two at once may exceed the bound by what one brings.
_KEEP = """WITH x AS MATERIALIZED (
        SELECT *, row_number() OVER () AS n
        FROM json_to_recordset(%(rows)s) AS x(event_id text, depth bigint, pdu text)
    ), there AS MATERIALIZED (
        SELECT (SELECT count(*) FROM inbound_pdus WHERE room_id = %(room_id)s) AS of_room,
            (SELECT count(*) FROM inbound_pdus WHERE origin = %(origin)s) AS of_origin
    ), kept AS (
        INSERT INTO inbound_pdus (room_id, event_id, origin, depth, pdu, attempts)
        SELECT %(room_id)s, x.event_id, %(origin)s, x.depth, x.pdu, %(attempts)s FROM x, there
        WHERE there.of_room + x.n <= %(per_room)s AND there.of_origin + x.n <= %(per_origin)s
        ON CONFLICT (room_id, event_id) DO NOTHING
        RETURNING event_id
    )
    SELECT event_id FROM kept
    UNION SELECT p.event_id FROM inbound_pdus p JOIN x USING (event_id) WHERE p.room_id = %(room_id)s"""

# Servers take turns, so that one with many events does not hold up the others' in the room.
_DUE = """SELECT event_id, origin, attempts, pdu FROM (
        SELECT *, row_number() OVER (PARTITION BY origin ORDER BY depth, id) AS turn
        FROM inbound_pdus WHERE room_id = %s AND not_before <= now() AND attempts >= 0
    ) AS p ORDER BY turn, depth, id LIMIT %s"""

_BY_IDS = """SELECT event_id, origin, attempts, pdu FROM inbound_pdus
    WHERE room_id = %s AND event_id = ANY (%s::text[]) AND attempts >= 0"""

_EARLY = """SELECT event_id, origin, attempts, pdu FROM inbound_pdus
    WHERE room_id = %s AND attempts < 0 ORDER BY depth, id LIMIT %s"""

_ADMIT = """UPDATE inbound_pdus SET attempts = 0
    WHERE room_id = %s AND event_id = ANY (%s::text[]) AND attempts < 0"""

_DUE_ROOMS = """SELECT DISTINCT p.room_id FROM inbound_pdus p LEFT JOIN inbound_rooms r USING (room_id)
    WHERE p.not_before <= now() AND (r.room_id IS NULL OR r.leased_until < now()) LIMIT %s"""

_DROP = "DELETE FROM inbound_pdus WHERE room_id = %s AND event_id = ANY (%s::text[])"

_DROP_ROOM = "DELETE FROM inbound_pdus WHERE room_id = %s AND attempts >= 0"

_POSTPONE = """UPDATE inbound_pdus SET attempts = attempts + %s, not_before = now() + make_interval(secs => %s)
    WHERE room_id = %s AND event_id = ANY (%s::text[]) AND attempts >= 0"""

_LEASE = """INSERT INTO inbound_rooms AS r (room_id, worker, leased_until)
    VALUES (%s, %s, now() + make_interval(secs => %s))
    ON CONFLICT (room_id) DO UPDATE SET worker = excluded.worker, leased_until = excluded.leased_until
    WHERE r.leased_until < now() OR r.worker = excluded.worker"""

_RELEASE = "DELETE FROM inbound_rooms WHERE room_id = %s AND worker = %s"

_KNOWN = """SELECT e.event_id, e.flags, e.type, e.state_key FROM rooms r JOIN events e USING (room)
    WHERE r.room_id = %s AND e.event_id = ANY (%s::text[]) AND (e.flags <> 4 OR e.auth_chain IS NOT NULL)"""

# Before what this server came with, or before history. A gap that was bridged while we were there is no beginning: what
# others did beside it meanwhile may be less deep, and is news.
_BEGINS = """SELECT min(g.depth) FROM rooms r JOIN event_gaps g USING (room) JOIN events e USING (room, ordinal)
    WHERE r.room_id = %s AND (e.position <= 0 OR server_of(e.sender) = %s)"""

_HASTEN = """UPDATE inbound_pdus SET not_before = now(), attempts = greatest(attempts - 1, 0)
    WHERE origin = %s AND not_before > now() AND attempts >= 0 RETURNING room_id"""


class InboundPduStore:
    """Keeps waiting events and hands out the rooms they wait in."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(
        self,
        room_id: str,
        origin: str,
        pdus: Sequence[tuple[str, int, str]],
        *,
        per_room: int,
        per_origin: int,
        early: bool = False,
    ) -> set[str]:
        """Store (event id, depth, JSON) durably, within bounds; gives the ids of those that are there now.

        `early`: this server is not in the room yet.
        """
        rows = JsonRows([{"event_id": each[0], "depth": each[1], "pdu": each[2]} for each in pdus])
        found = await self._database.fetch(
            "inbound_pdus_keep",
            _KEEP,
            {
                "rows": rows,
                "room_id": room_id,
                "origin": origin,
                "per_room": per_room,
                "per_origin": per_origin,
                "attempts": EARLY if early else 0,
            },
        )
        return {str(row[0]) for row in found}

    async def due(self, room_id: str, limit: int) -> list[WaitingPdu]:
        """A room's events to be worked on now, in the order to do so; early ones are not."""
        rows = await self._database.fetch("inbound_pdus_due", _DUE, (room_id, limit))
        return [WaitingPdu._make(row) for row in rows]

    async def by_ids(self, room_id: str, event_ids: Sequence[str]) -> list[WaitingPdu]:
        """Those of the events that wait in the room, due or not; early ones do not yet."""
        rows = await self._database.fetch("inbound_pdus_by_ids", _BY_IDS, (room_id, list(event_ids)))
        return [WaitingPdu._make(row) for row in rows]

    async def early(self, room_id: str, limit: int) -> list[WaitingPdu]:
        """Some of a room's early events."""
        rows = await self._database.fetch("inbound_pdus_early", _EARLY, (room_id, limit))
        return [WaitingPdu._make(row) for row in rows]

    async def admit(self, room_id: str, event_ids: Sequence[str]) -> None:
        """Those of the events that are early wait as all others do from now on."""
        await self._database.execute("inbound_pdus_admit", _ADMIT, (room_id, list(event_ids)))

    async def due_rooms(self, limit: int) -> list[str]:
        """Rooms with events to be worked on, early ones too, that no process works at."""
        return [str(row[0]) for row in await self._database.fetch("inbound_rooms_due", _DUE_ROOMS, (limit,))]

    async def drop(self, room_id: str, event_ids: Sequence[str]) -> None:
        """They wait no longer."""
        await self._database.execute("inbound_pdus_drop", _DROP, (room_id, list(event_ids)))

    async def drop_room(self, room_id: str) -> int:
        """Nothing waits in the room any longer but what is early; gives how many did."""
        return await self._database.execute("inbound_pdus_drop_room", _DROP_ROOM, (room_id,))

    async def postpone(
        self, room_id: str, event_ids: Sequence[str], seconds: float, *, attempts: int
    ) -> None:
        """Look at them again only then; `attempts` are added to those made."""
        await self._database.execute(
            "inbound_pdus_postpone", _POSTPONE, (attempts, seconds, room_id, list(event_ids))
        )

    async def lease(self, room_id: str, worker: str, seconds: float) -> bool:
        """Whether the room is that worker's alone for so long from now; also renews what it has."""
        return bool(await self._database.execute("inbound_rooms_lease", _LEASE, (room_id, worker, seconds)))

    async def release(self, room_id: str, worker: str) -> None:
        """The worker is done with the room."""
        await self._database.execute("inbound_rooms_release", _RELEASE, (room_id, worker))

    async def known(self, room_id: str, event_ids: Sequence[str]) -> dict[str, KnownEvent]:
        """Those of the events that are stored as the room's and were judged; an event of another room is not, nor an
        invite that came while nobody here was in the room."""
        if not event_ids:
            return {}
        rows = await self._database.fetch("inbound_known_events", _KNOWN, (room_id, list(event_ids)))
        return {str(row[0]): KnownEvent._make(row[1:]) for row in rows}

    async def hasten(self, origin: str) -> set[str]:
        """Have a server's events looked at now, and not count the last attempt; gives the rooms they wait in."""
        return {str(row[0]) for row in await self._database.fetch("inbound_pdus_hasten", _HASTEN, (origin,))}

    async def history_begins(self, room_id: str, own_server: str) -> int:
        """The depth from which on the room is known here: the least of the events before which there is history that
        was never here; 0: there is none."""
        row = await self._database.fetch_one("inbound_history_begins", _BEGINS, (room_id, own_server))
        return 0 if row is None or row[0] is None else int(row[0])
