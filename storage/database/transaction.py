# SPDX-License-Identifier: Apache-2.0
"""Transactions: several statements on one connection, all or nothing, tried again when Postgres asks for it.

BEGIN travels with the first statement, where that is `execute` or `fetch_one`: psycopg2 reads the second
answer of a double statement blockingly, which costs nothing as long as both arrive in one piece, as short
answers do. A `fetch`, whose rows may fill many packets while Postgres still computes, sends BEGIN ahead on
its own.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from homeserver.needs import Protocol
from storage.database.connection import COUNT, ROW, ROWS, Connection, Operation, Reactor
from storage.database.errors import ConnectionLost, TransactionAborted, is_retryable
from storage.database.prepared import Parameters, Prepared, Statement

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from storage.database.metrics import DatabaseMetrics, Timing
    from storage.database.pool import Pool

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Isolation = Literal["read committed", "repeatable read", "serializable"]

ATTEMPTS = 6
"""How often a transaction is tried altogether."""


class Work(Protocol[T_co]):
    """What a transaction does; run again from the start on each attempt, so it must not change anything
    outside.
    """

    def __call__(self, txn: Transaction, /) -> Awaitable[T_co]: ...


class Transaction:
    """One attempt. Statements run one after another; don't start one before the last was answered."""

    __slots__ = ("_after", "_began", "_begin", "_broken", "_conn", "_timing", "committing")

    _log = Logger()

    def __init__(self, conn: Connection, begin: str, timing: Callable[[str], Timing]) -> None:
        self._conn = conn
        self._begin = begin
        self._began = False
        self._broken = False
        """The statement that was to carry BEGIN failed, perhaps before BEGIN took effect."""
        self._timing = timing
        self._after: list[Callable[[], None]] = []
        self.committing = False

    async def fetch(self, name: str, sql: Statement, params: Parameters = ()) -> list[tuple[Any, ...]]:
        """All rows. Errors as `Database.fetch`."""
        if not self._began:
            await self._run(name, self._begin, (), COUNT)
        rows: list[tuple[Any, ...]] = await self._run(name, sql, params, ROWS)
        return rows

    async def fetch_one(self, name: str, sql: Statement, params: Parameters = ()) -> tuple[Any, ...] | None:
        """The first row, or None. Meant for statements that give one row."""
        row: tuple[Any, ...] | None = await self._first(name, sql, params, ROW)
        return row

    async def execute(self, name: str, sql: Statement, params: Parameters = ()) -> int:
        """The number of rows touched."""
        count: int = await self._first(name, sql, params, COUNT)
        return count

    def after_commit(self, fn: Callable[[], None]) -> None:
        """Have `fn` called once this attempt is committed, before the transaction's caller resumes.

        Called even if that caller was cancelled meanwhile. What it raises is logged.
        """
        self._after.append(fn)

    async def _first(self, name: str, sql: Statement, params: Parameters, shape: int) -> Any:
        if self._began:
            return await self._run(name, sql, params, shape)
        if isinstance(sql, Prepared):
            await self._run(name, self._begin, (), COUNT)
            return await self._run(name, sql, params, shape)
        # Postgres parses both statements before it runs the first, and nothing at all is sent if parameters can't be.
        # Should the work go on after such an error, its next statement must not commit by itself.
        self._broken = True
        answer = await self._run(name, f"{self._begin};{sql}", params, shape)
        self._broken = False
        return answer

    def _run(self, name: str, sql: Statement, params: Parameters, shape: int) -> Deferred[Any]:
        if self._began and self._broken and self._conn.operation is None:
            raise TransactionAborted("a statement failed earlier in this transaction")
        self._began = True
        operation = Operation(sql, params, shape, self._timing(name), releases=False)
        deferred = operation.deferred = Deferred[Any]()
        self._conn.submit(operation)
        return deferred

    def commit(self, pool: Pool, timing: Timing) -> Deferred[Any] | None:
        """Send COMMIT and give the connection back; None if there was nothing to commit."""
        if self._broken and not self._conn.closed:
            raise TransactionAborted("a statement failed earlier in this transaction")
        self.committing = self._began and not self._conn.closed
        if not self._began:
            pool.give_back(self._conn)
            self._committed()
            return None
        operation = Operation("COMMIT", (), COUNT, timing, then=self._committed)
        deferred = operation.deferred = Deferred[Any]()
        self._conn.submit(operation)
        return deferred

    def _committed(self) -> None:
        for fn in self._after:
            try:
                fn()
            except Exception:
                self._log.failure("a callback after a commit failed")

    def abandon(self, pool: Pool, timing: Timing) -> None:
        """Roll back without waiting for it; the connection comes back to the pool once that is done."""
        conn = self._conn
        if conn.closed:
            return
        if not self._began:
            pool.give_back(conn)
        elif conn.operation is None:
            _roll_back(conn, timing)
        elif not conn.operation.releases:
            conn.abandoned = lambda conn: _roll_back(conn, timing)

    @property
    def lost(self) -> bool:
        """Whether the connection ended under this attempt."""
        return self._conn.closed


def _roll_back(conn: Connection, timing: Timing) -> None:
    conn.submit(Operation("ROLLBACK", (), COUNT, timing))


async def run_transaction(  # noqa: PLR0917
    reactor: Reactor, pool: Pool, metrics: DatabaseMetrics, name: str, begin: str, work: Work[T]
) -> T:
    """Run `work` in a transaction opened by the statement `begin`, and commit; errors as
    `Database.transaction`.
    """
    timing = metrics.transaction(name)
    control = metrics.statement("transaction_control")
    started = perf_counter()
    for attempt in range(1, ATTEMPTS + 1):
        if attempt > 1:
            metrics.retries += 1
            await _pause(reactor, attempt)
        txn = Transaction(await pool.lease(), begin, metrics.statement)
        try:
            result = await work(txn)
            committed = txn.commit(pool, control)
            if committed is not None:
                await committed
        except BaseException as error:
            if not txn.committing:
                txn.abandon(pool, control)
            unsent_loss = txn.lost and not txn.committing and isinstance(error, ConnectionLost)
            if attempt < ATTEMPTS and (is_retryable(error) or unsent_loss):
                continue
            timing.errors += 1
            raise
        timing.observe(perf_counter() - started)
        return result
    raise AssertionError("unreachable: the last attempt returns or raises")


def _pause(reactor: Reactor, attempt: int) -> Deferred[None]:
    """Let the transactions that won get on: rivals that restart in step would only collide again."""
    deferred: Deferred[None] = Deferred(lambda cancelled: call.cancel())
    call = reactor.callLater(random() * 0.004 * 2**attempt, deferred.callback, None)
    return deferred
