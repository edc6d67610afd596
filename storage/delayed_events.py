# SPDX-License-Identifier: Apache-2.0
"""Events that are to be sent later (MSC4140). Owns their table; every time in it is the database's clock.

A process that sends one holds it under a lease meanwhile; an event whose lease has lapsed is anybody's again. Whether
it was sent by the process that died is found out by sending it again under the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from msgspec import Struct

from storage.database import Database, Prepared, Transaction

LEASE_MS: Final = 5_000
"""How long a process that died holds an event up. One that lives on beyond it may be overtaken without harm."""


class NewDelayedEvent(Struct, frozen=True, kw_only=True):
    """What is scheduled. `content` is JSON, `transaction` the digest of the request as a UUID."""

    delay_id: str
    user_id: str
    transaction: str | None
    room_id: str
    type: str
    state_key: str | None
    content: str
    delay_ms: int


class DelayedEvent(NamedTuple):
    """A row; `content` and `error` are JSON."""

    delay_id: str
    user_id: str
    room_id: str
    type: str
    state_key: str | None
    content: str
    delay_ms: int
    scheduled_ts: int
    attempts: int
    finalised_ts: int | None
    event_id: str | None
    error: str | None
    by_action: bool


class Full(NamedTuple):
    """There is no room for another until one of the user's has been sent, which is due in so many milliseconds."""

    wait_ms: int


_COLUMNS = """d.delay_id, d.user_id, d.room_id, d.type, d.state_key, d.content, d.delay_ms, d.scheduled_ts, d.attempts,
    d.finalised_ts, d.event_id, d.error, d.by_action"""
_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_OVERTAKEN = """EXISTS (
    SELECT FROM rooms r JOIN current_state c ON c.room = r.room AND c.type = d.type AND c.state_key = d.state_key
    JOIN events e ON e.room = c.room AND e.ordinal = c.ordinal
    WHERE r.room_id = d.room_id AND e.sender <> d.user_id AND e.position > d.since)"""
"""Another user has set that state since; asked of one row at a time, by keys."""

_LOCK_USER = "SELECT 1 FROM users WHERE user_id = %s FOR NO KEY UPDATE"
_KNOWN = "SELECT delay_id FROM delayed_events WHERE transaction = %s::uuid"
_STANDING = f"""
SELECT count(*), min(due_ts) - {_NOW} FROM delayed_events WHERE user_id = %s AND finalised_ts IS NULL
"""  # noqa: S608
_ADD = f"""
INSERT INTO delayed_events
    (delay_id, user_id, transaction, room_id, type, state_key, content, delay_ms, scheduled_ts, due_ts, since)
SELECT %(delay_id)s, %(user_id)s, %(transaction)s::uuid, %(room_id)s, %(type)s, %(state_key)s, %(content)s,
    %(delay_ms)s, now.ts, now.ts + %(delay_ms)s, s.position
FROM (SELECT {_NOW} AS ts) AS now, stream s
"""  # noqa: S608
_TRIM = """
DELETE FROM delayed_events WHERE delay_id IN (
    SELECT delay_id FROM delayed_events WHERE user_id = %s AND finalised_ts IS NOT NULL
    ORDER BY finalised_ts DESC OFFSET %s)
"""

# A database that loses power may forget the last restarts: every event is overdue then anyhow. So heartbeats, of which
# there is one per device in a call and five seconds, need not wait for the disk.
_RESTART = Prepared(f"""
WITH relaxed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true), {_NOW} AS ts)
UPDATE delayed_events d SET scheduled_ts = relaxed.ts, due_ts = relaxed.ts + d.delay_ms
FROM relaxed
WHERE d.delay_id = %s AND d.finalised_ts IS NULL AND d.leased_until IS NULL AND NOT {_OVERTAKEN}
RETURNING d.delay_ms
""")  # noqa: S608
_CANCEL = f"""
UPDATE delayed_events d SET finalised_ts = {_NOW}, by_action = true
WHERE d.delay_id = %s AND d.finalised_ts IS NULL AND d.leased_until IS NULL
"""  # noqa: S608
_OVERTAKE = f"""
UPDATE delayed_events d SET finalised_ts = {_NOW}, error = %s
WHERE d.user_id = %s AND d.finalised_ts IS NULL AND d.leased_until IS NULL AND {_OVERTAKEN}
"""  # noqa: S608

_LEASE = f"leased_until = {_NOW} + {LEASE_MS}, attempts = d.attempts + 1"
_TAKE = f"""
UPDATE delayed_events d SET {_LEASE}, due_ts = least(d.due_ts, {_NOW})
WHERE d.delay_id = %s AND d.finalised_ts IS NULL AND (d.leased_until IS NULL OR d.leased_until <= {_NOW})
RETURNING {_COLUMNS}, {_OVERTAKEN}
"""  # noqa: S608
_CLAIM = f"""
WITH due AS MATERIALIZED (
    SELECT delay_id FROM delayed_events
    WHERE finalised_ts IS NULL AND due_ts <= {_NOW} AND (leased_until IS NULL OR leased_until <= {_NOW})
    ORDER BY due_ts LIMIT %s FOR UPDATE SKIP LOCKED)
UPDATE delayed_events d SET {_LEASE} FROM due WHERE d.delay_id = due.delay_id
RETURNING {_COLUMNS}, {_OVERTAKEN}
"""  # noqa: S608
# What somebody wished to be sent is due from then on. Those that are being sent come up again when their lease lapses,
# unless they are finalised by then.
_NEXT = f"""
SELECT min(greatest(due_ts, coalesce(leased_until, 0))) - {_NOW} FROM (
    SELECT due_ts, leased_until FROM delayed_events WHERE finalised_ts IS NULL ORDER BY due_ts LIMIT %s) AS soonest
"""  # noqa: S608
_SENT = f"""
UPDATE delayed_events SET finalised_ts = {_NOW}, event_id = %s, error = NULL, by_action = %s, leased_until = NULL
WHERE delay_id = %s AND event_id IS NULL
"""  # noqa: S608
_FAILED = f"""
UPDATE delayed_events SET finalised_ts = {_NOW}, error = %s, by_action = %s, leased_until = NULL
WHERE delay_id = %s AND finalised_ts IS NULL
"""  # noqa: S608
_RELEASE = """
UPDATE delayed_events SET leased_until = NULL, attempts = 0, due_ts = scheduled_ts + delay_ms
WHERE delay_id = %s AND finalised_ts IS NULL
"""
_RENEW = f"""
UPDATE delayed_events SET leased_until = {_NOW} + {LEASE_MS}
WHERE delay_id = ANY (%s) AND finalised_ts IS NULL AND leased_until IS NOT NULL
"""  # noqa: S608

_GET = f"SELECT {_COLUMNS} FROM delayed_events d WHERE d.delay_id = %s"  # noqa: S608
_SCHEDULED = f"""
SELECT {_COLUMNS} FROM delayed_events d WHERE d.user_id = %s AND d.finalised_ts IS NULL
    AND (%s::text[] IS NULL OR d.delay_id = ANY (%s)) ORDER BY d.due_ts, d.delay_id
"""  # noqa: S608
_FINALISED = f"""
SELECT {_COLUMNS} FROM delayed_events d WHERE d.user_id = %s AND d.finalised_ts IS NOT NULL
    AND (%s::text[] IS NULL OR d.delay_id = ANY (%s)) ORDER BY d.finalised_ts DESC, d.delay_id LIMIT %s
"""  # noqa: S608
_FORGET_USER = "DELETE FROM delayed_events WHERE user_id = %s"
_SWEEP = f"DELETE FROM delayed_events WHERE finalised_ts < {_NOW} - %s"  # noqa: S608


class DelayedEventStore:
    """Keeps them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, event: NewDelayedEvent, *, most: int, keep: int) -> str | Full:
        """Schedule; the delay id, which is the first one's for a request that was made before.

        Full if `most` of the user's are scheduled. Of those that are finalised, the newest `keep` stay.
        """

        async def work(txn: Transaction) -> str | Full:
            await txn.fetch_one("delayed_lock", _LOCK_USER, (event.user_id,))
            if event.transaction is not None:
                known = await txn.fetch_one("delayed_known", _KNOWN, (event.transaction,))
                if known is not None:
                    return str(known[0])
            standing = await txn.fetch_one("delayed_standing", _STANDING, (event.user_id,))
            assert standing is not None
            if standing[0] >= most:
                return Full(max(0, standing[1] or 0))
            await txn.execute(
                "delayed_add",
                _ADD,
                {
                    "delay_id": event.delay_id,
                    "user_id": event.user_id,
                    "transaction": event.transaction,
                    "room_id": event.room_id,
                    "type": event.type,
                    "state_key": event.state_key,
                    "content": event.content,
                    "delay_ms": event.delay_ms,
                },
            )
            await txn.execute("delayed_trim", _TRIM, (event.user_id, keep))
            return event.delay_id

        return await self._database.transaction("delayed_schedule", work)

    async def restart(self, delay_id: str) -> int | None:
        """Let the delay begin anew; its length in ms, None if the event is no longer scheduled."""
        row = await self._database.fetch_one("delayed_restart", _RESTART, (delay_id,))
        return None if row is None else int(row[0])

    async def cancel(self, delay_id: str) -> bool:
        """Never send it; False if it is no longer scheduled."""
        return await self._database.execute("delayed_cancel", _CANCEL, (delay_id,)) > 0

    async def overtake(self, user_id: str, error: str) -> None:
        """Give up those of the user's events whose state another user has set since."""
        await self._database.execute("delayed_overtake", _OVERTAKE, (error, user_id))

    async def take(self, delay_id: str) -> tuple[DelayedEvent, bool] | None:
        """Lease an event to send it now; and whether another user has set that state since. None: it cannot be had."""
        row = await self._database.fetch_one("delayed_take", _TAKE, (delay_id,))
        return None if row is None else (DelayedEvent._make(row[:-1]), row[-1])

    async def claim(self, limit: int) -> list[tuple[DelayedEvent, bool]]:
        """Lease those that are due, oldest first; each with whether another user has set that state since."""
        rows = await self._database.fetch("delayed_claim", _CLAIM, (limit,))
        taken = [(DelayedEvent._make(row[:-1]), bool(row[-1])) for row in rows]
        taken.sort(key=lambda each: (each[0].scheduled_ts + each[0].delay_ms, each[0].delay_id))
        return taken

    async def next_due(self, among: int) -> int | None:
        """In how many ms something is to be claimed, as far as the soonest `among` tell; None: nothing is scheduled."""
        row = await self._database.fetch_one("delayed_next", _NEXT, (among,))
        return None if row is None or row[0] is None else int(row[0])

    async def sent(self, delay_id: str, event_id: str, *, by_action: bool) -> None:
        """It was sent, whatever another process may have found."""
        await self._database.execute("delayed_sent", _SENT, (event_id, by_action, delay_id))

    async def failed(self, delay_id: str, error: str, *, by_action: bool) -> None:
        """It will not be sent."""
        await self._database.execute("delayed_failed", _FAILED, (error, by_action, delay_id))

    async def renew(self, delay_ids: Sequence[str]) -> None:
        """They are still being sent."""
        await self._database.execute("delayed_renew", _RENEW, (list(delay_ids),))

    async def release(self, delay_id: str) -> None:
        """It was certainly not sent, and stays scheduled."""
        await self._database.execute("delayed_release", _RELEASE, (delay_id,))

    async def get(self, delay_id: str) -> DelayedEvent | None:
        """An event, scheduled or finalised."""
        row = await self._database.fetch_one("delayed_get", _GET, (delay_id,))
        return None if row is None else DelayedEvent._make(row)

    async def scheduled(self, user_id: str, delay_ids: Sequence[str] | None) -> list[DelayedEvent]:
        """The user's scheduled events, all or those, the next first."""
        return await self._list("delayed_scheduled", _SCHEDULED, (user_id, *_twice(delay_ids)))

    async def finalised(
        self, user_id: str, delay_ids: Sequence[str] | None, limit: int
    ) -> list[DelayedEvent]:
        """The user's finalised events, all or those, the newest first."""
        return await self._list("delayed_finalised", _FINALISED, (user_id, *_twice(delay_ids), limit))

    async def _list(self, name: str, sql: str, params: tuple[Any, ...]) -> list[DelayedEvent]:
        return [DelayedEvent._make(row) for row in await self._database.fetch(name, sql, params)]

    async def forget_user(self, user_id: str) -> None:
        """Drop everything of a user."""
        await self._database.execute("delayed_forget_user", _FORGET_USER, (user_id,))

    async def sweep(self, age_ms: int) -> int:
        """Drop what was finalised longer ago than that."""
        return await self._database.execute("delayed_sweep", _SWEEP, (age_ms,))


def _twice(delay_ids: Sequence[str] | None) -> tuple[list[str] | None, list[str] | None]:
    return (None, None) if delay_ids is None else (list(delay_ids), list(delay_ids))
