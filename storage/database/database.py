# SPDX-License-Identifier: Apache-2.0
"""`Database`: the interface every store is given.

Python CPU per operation, on a busy machine of two cores over a Unix socket, two runs, one at a time and eight at a time
(when one turn of the reactor serves several): a `fetch` of a row by key 31–44 and 17–25 µs, an `execute` of an INSERT
40–43 and 20 µs, a transaction of one INSERT 72–86 and 36–38 µs. `Prepared` makes no difference to Python beyond that
noise, but Postgres' own CPU for a join of five tables fell from 125–165 to 22–45 µs; for the row by key and the INSERT
it gained little or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from storage.database.connection import COUNT, ROW, ROWS, Operation, Reactor
from storage.database.listener import Listener
from storage.database.metrics import DatabaseMetrics
from storage.database.pool import Pool
from storage.database.prepared import Parameters, Statement
from storage.database.settings import ConnectionSettings, PoolSettings
from storage.database.transaction import Isolation, Work, run_transaction

T = TypeVar("T")

_READ = re.compile(r"\s*(?:SELECT|VALUES|TABLE)\b", re.IGNORECASE)

_BEGIN: dict[str, str] = {
    "read committed": "BEGIN",
    "repeatable read": "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "serializable": "BEGIN ISOLATION LEVEL SERIALIZABLE",
}
_BEGIN_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Database:
    """A pool of connections to one Postgres database, for use on the reactor thread only.

    In statements `%s` and `%(name)s` stand for parameters and `%%` for a percent sign; a statement without
    parameters is sent as it is. Columns arrive as str, int, bool, float, `bytes` (bytea), lists (arrays) and,
    for json and jsonb, as what orjson makes of them (select `column::text` to get the text itself).

    Every method may raise the errors of `storage.database.errors` and, about the data, `psycopg2.errors.*`.
    `name` labels the operation in metrics and must be a constant of the caller.

    Cancelling an operation that was sent lets it run on and drops its answer; the connection stays in use.
    """

    def __init__(
        self,
        reactor: Reactor,
        dsn: str,
        *,
        connection: ConnectionSettings | None = None,
        pool: PoolSettings | None = None,
    ) -> None:
        """Opens nothing yet: connections are made as operations need them."""
        connection = connection or ConnectionSettings()
        complete = connection.complete(dsn)
        self._reactor = reactor
        self.metrics = DatabaseMetrics(self._gauges)
        """A prometheus collector; register it where metrics are served."""
        self._pool = Pool(reactor, complete, pool or PoolSettings(), connection.connect_timeout, self.metrics)
        self._listener = Listener(
            reactor, complete, pool or PoolSettings(), connection.connect_timeout, self.metrics
        )

    async def fetch(
        self, name: str, sql: Statement, params: Parameters = (), *, retry: bool | None = None
    ) -> list[tuple[Any, ...]]:
        """All rows of one statement, committed by itself.

        `retry`: whether it may be sent again, once, if the connection is lost before the answer; by default
        so if it begins with SELECT, VALUES or TABLE. Pass False for a SELECT that calls a function which
        writes. Otherwise a lost connection raises `ConnectionLost`.
        """
        rows: list[tuple[Any, ...]] = await self._pool.run(self._operation(name, sql, params, ROWS, retry))
        return rows

    async def fetch_one(
        self, name: str, sql: Statement, params: Parameters = (), *, retry: bool | None = None
    ) -> tuple[Any, ...] | None:
        """The first row of one statement, or None. Otherwise as `fetch`."""
        row: tuple[Any, ...] | None = await self._pool.run(self._operation(name, sql, params, ROW, retry))
        return row

    async def execute(self, name: str, sql: Statement, params: Parameters = ()) -> int:
        """The number of rows one statement touched, committed by itself. Never sent twice."""
        count: int = await self._pool.run(Operation(sql, params, COUNT, self.metrics.statement(name)))
        return count

    def _operation(
        self, name: str, sql: Statement, params: Parameters, shape: int, retry: bool | None
    ) -> Operation:
        if retry is None:
            retry = _READ.match(sql if isinstance(sql, str) else sql.sql) is not None
        return Operation(sql, params, shape, self.metrics.statement(name), retry=retry)

    async def transaction(self, name: str, fn: Work[T], *, isolation: Isolation = "read committed") -> T:
        """What `fn` returns, with everything it did through its `Transaction` committed.

        Run again from the start on serialization failures and deadlocks, and when the connection is lost
        before COMMIT was sent: `fn` must have no effects but through the transaction and `after_commit`.
        Raises `ConnectionLost` if the connection ends while COMMIT is under way (outcome unknown), and
        whatever `fn` raises, after which everything is rolled back.
        """
        return await run_transaction(self._reactor, self._pool, self.metrics, name, _BEGIN[isolation], fn)

    async def snapshot(self, name: str, fn: Work[T]) -> T:
        """What `fn` returns, all its reads seeing the database as of its first one. Writing raises."""
        return await run_transaction(self._reactor, self._pool, self.metrics, name, _BEGIN_SNAPSHOT, fn)

    async def listen(
        self,
        channel: str,
        callback: Callable[[str], None],
        on_reconnect: Callable[[], None] | None = None,
    ) -> None:
        """Have `callback` called with the payload of each NOTIFY on `channel` committed from now on.

        Returns once Postgres listens. All channels share one connection outside the pool, re-established
        whenever it is lost. `on_reconnect` is called after Postgres listens again: notifications in between
        are gone, so the listener reads what it missed. What the callbacks raise is logged.
        """
        await self._listener.listen(channel, callback, on_reconnect)

    def hear(self) -> None:
        """Call listeners for the notifications that have arrived already, instead of when the reactor comes to them."""
        self._listener.hear()

    def interrupted(self) -> None:
        """Have every listener read what it missed, as though the connection had been lost and were back."""
        self._listener.interrupted()

    async def close(self, grace: float = 10.0) -> None:
        """Refuse new work, let the present finish for up to `grace` seconds, and end all connections."""
        self._listener.close()
        await self._pool.close(grace)

    def _gauges(self) -> dict[str, int]:
        return self._pool.gauges()

    def oldest_wait(self) -> float:
        """Seconds that the oldest waiting operation has waited for a connection; 0 if none waits."""
        return self._pool.oldest_wait()

    def statistics(self) -> dict[str, int]:
        """`connections`, `connections_idle`, `connections_opening`, `waiting` (operations in the queue)."""
        return self._pool.gauges()
