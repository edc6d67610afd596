# SPDX-License-Identifier: Apache-2.0
"""Sweeps what expires by itself: authentication sessions, login and OpenID tokens, nonces.

Owns only their deletion, in one statement that any number of processes may run at any time. Expired access tokens are
not swept: see migration 0002.
"""

from __future__ import annotations

from storage.database import Database

_SWEEP = """
WITH u AS (DELETE FROM uia_sessions WHERE expires_ts <= %(now)s RETURNING 1),
    l AS (DELETE FROM login_tokens WHERE expires_ts <= %(now)s RETURNING 1),
    o AS (DELETE FROM openid_tokens WHERE expires_ts <= %(now)s RETURNING 1),
    n AS (DELETE FROM registration_nonces WHERE expires_ts <= %(now)s RETURNING 1)
SELECT (SELECT count(*) FROM u) + (SELECT count(*) FROM l) + (SELECT count(*) FROM o) + (SELECT count(*) FROM n)
"""


class ExpiryStore:
    """Deletes expired rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def sweep(self, now: int) -> int:
        """Delete everything expired at `now` (ms since 1970); returns how many rows went."""
        row = await self._database.fetch_one("expiry_sweep", _SWEEP, {"now": now}, retry=False)
        return 0 if row is None else int(row[0])
