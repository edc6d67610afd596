# SPDX-License-Identifier: Apache-2.0
"""The work_turns table: recurring work is done by one process at a time, and by another when that is gone.

For work that may be done twice without harm (sweeping, mostly) but need not be done by everybody. What must not be done
twice has leases of its own.
"""

from __future__ import annotations

from storage.database import Database

# A turn lasts; that of processes which are all gone is over, and so is that of the process whose number this one has
# since: `company` is `<company> <number>`.
_TAKE = """
INSERT INTO work_turns AS w (work, company, until)
VALUES (%(work)s, %(process)s, now() + make_interval(secs => %(seconds)s))
ON CONFLICT (work) DO UPDATE SET company = excluded.company, until = excluded.until
WHERE w.until <= now()
    OR w.company = %(process)s AND %(first)s
    OR split_part(w.company, ' ', 1) <> %(company)s AND NOT EXISTS (
        SELECT FROM server_processes p WHERE p.company = split_part(w.company, ' ', 1) AND p.until > now())
RETURNING true
"""


class WorkTurnStore:
    """Of one process of a company."""

    def __init__(self, database: Database, company: str, number: int) -> None:
        """`number` tells the process from those of the company that live, and from none that is gone."""
        self._database = database
        self._company = company
        self._number = number
        self._asked: set[str] = set()

    async def take(self, work: str, seconds: float) -> bool:
        """Whether the work is this process's to do now; it is nobody else's for so long."""
        params = {
            "work": work,
            "company": self._company,
            "process": f"{self._company} {self._number}",
            "seconds": seconds,
            "first": work not in self._asked,
        }
        taken = await self._database.fetch("work_turns_take", _TAKE, params, retry=False)
        self._asked.add(work)
        return bool(taken)
