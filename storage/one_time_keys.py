# SPDX-License-Identifier: Apache-2.0
"""One-time and fallback keys: uploaded by devices, given out to those who want to talk to them.

Owns that a one-time key is given out once: claiming is one statement, which locks the keys it takes, passes over those
that others are taking just then, and has their owners told in the same commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg2.errors

from storage.database import Database, JsonRows, Prepared, Transaction


class OneTimeKey(NamedTuple):
    """A one-time or fallback key as uploaded; `key` is canonical JSON, None for one that was claimed."""

    algorithm: str
    key_id: str
    key: str | None


class ClaimedKeys(NamedTuple):
    """What was given out."""

    keys: str | None
    """JSON object: user → device → `<algorithm>:<key id>` → key; None: nothing."""
    moved: Sequence[tuple[str, str]]
    """Users and devices that have a key less than before, or a fallback key that now is used."""
    before: int
    """The stream position before the one at which that moved; of no meaning if nothing did."""


class KeyCounts(NamedTuple):
    """How many one-time keys of each algorithm a device has left, and which fallback keys are unused."""

    one_time: dict[str, int]
    unused_fallback: list[str]
    has_keys: bool
    """Whether the device has keys of any kind."""


_KNOWN = """
SELECT o.algorithm, o.key_id, o.key FROM json_to_recordset(%s) AS n(algorithm text, key_id text)
JOIN one_time_keys o ON o.user_id = %s AND o.device_id = %s AND o.algorithm = n.algorithm AND o.key_id = n.key_id
"""
_UNCLAIMED = "SELECT count(*) FROM one_time_keys WHERE user_id = %s AND device_id = %s AND key IS NOT NULL"
_ADD = """
INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, upload, key)
SELECT %s, %s, n.algorithm, n.key_id, u.upload, n.key
FROM (SELECT nextval('one_time_key_uploads') AS upload) AS u,
    json_to_recordset(%s) AS n(algorithm text, key_id text, key text)
"""
_PRUNE = """
DELETE FROM one_time_keys WHERE (user_id, device_id, algorithm, key_id) IN (
    SELECT user_id, device_id, algorithm, key_id FROM one_time_keys
    WHERE user_id = %s AND device_id = %s AND key IS NULL ORDER BY upload DESC OFFSET %s)
"""
_PUT_FALLBACK = """
INSERT INTO fallback_keys AS f (user_id, device_id, algorithm, key_id, key)
SELECT %s, %s, n.algorithm, n.key_id, n.key FROM json_to_recordset(%s) AS n(algorithm text, key_id text, key text)
ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET key_id = excluded.key_id, key = excluded.key, used = false
WHERE f.key_id <> excluded.key_id OR f.key <> excluded.key
"""
_COUNT_FALLBACK = """
SELECT count(DISTINCT algorithm) FROM (
    SELECT algorithm FROM fallback_keys WHERE user_id = %s AND device_id = %s
    UNION ALL SELECT unnest(%s::text[])) AS all_of_them
"""
_COUNTS = Prepared("""
SELECT (SELECT json_object_agg(algorithm, n) FROM (
        SELECT algorithm, count(*) AS n FROM one_time_keys
        WHERE user_id = %(user_id)s AND device_id = %(device_id)s AND key IS NOT NULL GROUP BY algorithm) AS c),
    (SELECT array_agg(algorithm ORDER BY algorithm) FROM fallback_keys
        WHERE user_id = %(user_id)s AND device_id = %(device_id)s AND NOT used),
    EXISTS (SELECT FROM device_keys WHERE user_id = %(user_id)s AND device_id = %(device_id)s)
        OR EXISTS (SELECT FROM one_time_keys WHERE user_id = %(user_id)s AND device_id = %(device_id)s)
""")
_CLAIM = Prepared("SELECT keys, moved, before FROM claim_one_time_keys(%s, %s)")  # migration 0025
_CLAIM_ATTEMPTS = 4
"""A claim that holds keys waits for the stream, so that a device which is deleted meanwhile can make a circle."""


class OneTimeKeyStore:
    """Keeps and gives out one-time and fallback keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def known_txn(
        self, txn: Transaction, user_id: str, device_id: str, keys: Sequence[OneTimeKey]
    ) -> list[OneTimeKey]:
        """Those under the same names that are there, claimed ones included."""
        rows = await txn.fetch("one_time_keys_known", _KNOWN, (_rows(keys), user_id, device_id))
        return [OneTimeKey._make(row) for row in rows]

    async def unclaimed_txn(self, txn: Transaction, user_id: str, device_id: str) -> int:
        """How many there are for the device, of all algorithms."""
        row = await txn.fetch_one("one_time_keys_unclaimed", _UNCLAIMED, (user_id, device_id))
        return 0 if row is None else int(row[0])

    async def add_txn(
        self, txn: Transaction, user_id: str, device_id: str, keys: Sequence[OneTimeKey], *, keep_claimed: int
    ) -> None:
        """Add keys that are not there; of the claimed ones the newest `keep_claimed` stay remembered."""
        await txn.execute("one_time_keys_add", _ADD, (user_id, device_id, _rows(keys)))
        await txn.execute("one_time_keys_prune", _PRUNE, (user_id, device_id, keep_claimed))

    async def fallback_algorithms_txn(
        self, txn: Transaction, user_id: str, device_id: str, more: Sequence[str]
    ) -> int:
        """How many algorithms the device would have fallback keys of with those."""
        row = await txn.fetch_one("fallback_keys_count", _COUNT_FALLBACK, (user_id, device_id, list(more)))
        return 0 if row is None else int(row[0])

    async def put_fallback_txn(
        self, txn: Transaction, user_id: str, device_id: str, keys: Sequence[OneTimeKey]
    ) -> None:
        """Set fallback keys, one per algorithm; one that is new is unused."""
        await txn.execute("fallback_keys_put", _PUT_FALLBACK, (user_id, device_id, _rows(keys)))

    async def counts(self, user_id: str, device_id: str) -> KeyCounts:
        """What a device has left, in one query."""
        params = {"user_id": user_id, "device_id": device_id}
        row = await self._database.fetch_one("one_time_keys_counts", _COUNTS, params)
        assert row is not None
        return KeyCounts(row[0] or {}, row[1] or [], row[2])

    async def claim(self, origin: str, wanted: Mapping[str, Mapping[str, str]]) -> ClaimedKeys:
        """Give out a one-time key each (user → device → algorithm), the fallback key where there is none left.

        Who has neither is left out. A one-time key is in at most one answer, ever: if the connection breaks before the
        answer, those claimed are lost. What moved takes a stream position, of which the processes other than `origin`
        are told.
        """
        asked = [
            (user_id, device_id, algorithm)
            for user_id, devices in wanted.items()
            for device_id, algorithm in devices.items()
        ]
        row = await self._claim(origin, asked)
        assert row is not None
        keys, moved, before = row  # the second is NULL if all did
        pairs = [(each[0], each[1]) for each in (asked if moved is None else moved)]
        return ClaimedKeys(keys, pairs, 0 if before is None else before)

    async def _claim(self, origin: str, asked: Sequence[tuple[str, str, str]]) -> tuple[Any, ...] | None:
        params = (origin, JsonRows(asked))
        for _ in range(_CLAIM_ATTEMPTS - 1):
            try:
                return await self._database.fetch_one("one_time_keys_claim", _CLAIM, params, retry=False)
            except psycopg2.errors.DeadlockDetected:  # rolled back: nothing was given out
                continue
        return await self._database.fetch_one("one_time_keys_claim", _CLAIM, params, retry=False)


def _rows(keys: Sequence[OneTimeKey]) -> JsonRows:
    rows: list[dict[str, Any]] = [key._asdict() for key in keys]
    return JsonRows(rows)
