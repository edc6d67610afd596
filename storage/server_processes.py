# SPDX-License-Identifier: Apache-2.0
"""The server_processes table: who serves from this database, and how far each has told what is not on the stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from storage.database import Database, Prepared

CHANNEL = "server_processes"
"""Who comes: `hello <origin> <company>`, and who knows of them: `seen <origin> <by origin>`."""

_RENEW = """
WITH mine AS (
    INSERT INTO server_processes (origin, company, host, pid, until)
    VALUES (%(origin)s, %(company)s, %(host)s, %(pid)s, now() + make_interval(secs => %(seconds)s))
    ON CONFLICT (origin) DO UPDATE SET until = excluded.until
    RETURNING xmax = 0 AS is_new
), gone AS (
    DELETE FROM server_processes WHERE until < now() - interval '1 minute'
)
SELECT mine.is_new, p.origin, p.host, p.pid, p.told
FROM mine LEFT JOIN server_processes p ON p.company <> %(company)s AND p.until > now()
"""
_LOOK = Prepared(
    """SELECT position,
        ARRAY(SELECT origin FROM server_processes WHERE company <> %s AND until > now() ORDER BY origin),
        ARRAY(SELECT told FROM server_processes WHERE company <> %s AND until > now() ORDER BY origin)
    FROM stream"""
)
# Nothing that is told so outlives a crash, so the log need not be flushed for it.
_TELL = """
WITH mine AS (
    UPDATE server_processes SET told = %s WHERE origin = %s RETURNING set_config('synchronous_commit', 'off', true)
)
SELECT (SELECT count(*) FROM mine), count(pg_notify(channel, payload))
FROM unnest(%s::text[], %s::text[]) AS n(channel, payload)
"""
_BURY = "DELETE FROM server_processes WHERE origin = ANY (%s)"


class ServerProcess(Struct, frozen=True):
    """Another process with a lease; `host` names the place where its `pid` means something."""

    origin: str
    host: str | None
    pid: int
    told: int


class Told(Struct, frozen=True):
    """How far everybody had told at one moment: the stream's position, and by origin the serial of the rest."""

    position: int
    serials: Mapping[str, int]


class ServerProcessStore:
    """Of the process `origin` of a company."""

    def __init__(self, database: Database, *, origin: str, company: str) -> None:
        self._database = database
        self._origin = origin
        self._company = company

    async def renew(
        self, host: str | None, pid: int, seconds: float, *, retry: bool = False
    ) -> tuple[bool, list[ServerProcess]]:
        """Be known for so long from now. Whether that is new, and those of other companies that are known.

        Who is not known is notified of nothing. With `retry`, what is told to be known may be new.
        """
        params = {
            "origin": self._origin,
            "company": self._company,
            "host": host,
            "pid": pid,
            "seconds": seconds,
        }
        rows = await self._database.fetch("server_processes_renew", _RENEW, params, retry=retry)
        return bool(rows[0][0]), [ServerProcess(*row[1:]) for row in rows if row[1] is not None]

    async def look(self) -> Told:
        """How far all that is committed goes."""
        company = self._company
        row = await self._database.fetch_one("server_processes_look", _LOOK, (company, company))
        assert row is not None
        return Told(int(row[0]), dict(zip(row[1], row[2], strict=True)))

    async def tell(self, serial: int, notifications: Sequence[tuple[str, str]]) -> None:
        """Send notifications, the last of which tells the serial, and have it looked at, both or neither."""
        channels, payloads = zip(*notifications, strict=True)
        params = (serial, self._origin, list(channels), list(payloads))
        await self._database.fetch_one("server_processes_tell", _TELL, params, retry=False)

    async def bury(self, origins: Sequence[str]) -> None:
        """Those have ended, though their leases have not."""
        await self._database.execute("server_processes_bury", _BURY, (list(origins),))

    async def leave(self) -> None:
        """Be known no more."""
        await self.bury((self._origin,))
