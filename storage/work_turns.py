# SPDX-License-Identifier: Apache-2.0
"""The work_turns table: recurring work is done by one process at a time, and by another when that is gone.

For work that may be done twice without harm (sweeping, mostly) but need not be done by everybody. What must not be done
twice has leases of its own.
"""

from __future__ import annotations

from storage.database import Database

# A turn lasts; that of processes which are all gone is over.
_TAKE = """
INSERT INTO work_turns AS w (work, company, until) VALUES (%s, %s, now() + make_interval(secs => %s))
ON CONFLICT (work) DO UPDATE SET company = excluded.company, until = excluded.until
WHERE w.until <= now() OR w.company <> excluded.company AND NOT EXISTS (
    SELECT FROM server_processes p WHERE p.company = w.company AND p.until > now())
RETURNING true
"""


class WorkTurnStore:
    """Of the processes of a company."""

    def __init__(self, database: Database, company: str) -> None:
        self._database = database
        self._company = company

    async def take(self, work: str, seconds: float) -> bool:
        """Whether the work is this process's to do now; it is nobody else's for so long."""
        return bool(
            await self._database.fetch("work_turns_take", _TAKE, (work, self._company, seconds), retry=False)
        )
