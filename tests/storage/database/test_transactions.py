# SPDX-License-Identifier: Apache-2.0
"""Transactions: all or nothing, tried again when they may be, and never half outside themselves."""

from __future__ import annotations

import contextlib

import psycopg2
import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from storage.database import (
    Database,
    DatabaseUnavailable,
    PoolSettings,
    Prepared,
    Transaction,
    TransactionAborted,
    UnstorableText,
)
from tests.reactor import reactor

ADD = "INSERT INTO t VALUES (%s)"


async def table(database: Database) -> None:
    await database.execute("create", "CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL DEFAULT 0)")


async def content(database: Database) -> list[int]:
    return [row[0] for row in await database.fetch("content", "SELECT a FROM t ORDER BY a")]


@pytest.mark.parametrize("first", ["execute", "fetch", "fetch_one", "prepared"])
async def test_the_first_statement_is_inside(database: Database, first: str) -> None:
    await table(database)
    prepared = Prepared("INSERT INTO t VALUES (%s)")

    async def work(txn: Transaction) -> None:
        if first == "execute":
            assert await txn.execute("add", ADD, (1,)) == 1
        elif first == "fetch":
            assert await txn.fetch("add", ADD + " RETURNING a", (1,)) == [(1,)]
        elif first == "fetch_one":
            assert await txn.fetch_one("add", ADD + " RETURNING a", (1,)) == (1,)
        else:
            assert await txn.execute("add", prepared, (1,)) == 1
        assert await txn.execute("add", ADD, (2,)) == 1
        raise LookupError

    with pytest.raises(LookupError):
        await database.transaction("work", work)
    assert await content(database) == []


async def test_commit_and_callbacks(database: Database) -> None:
    await table(database)
    seen: list[str] = []

    async def work(txn: Transaction) -> str:
        await txn.execute("add", ADD, (1,))
        txn.after_commit(lambda: seen.append("after"))
        return "result"

    async def failing(txn: Transaction) -> None:
        txn.after_commit(lambda: seen.append("never"))
        await txn.execute("add", ADD, (1,))

    assert await database.transaction("work", work) == "result"
    with pytest.raises(psycopg2.errors.UniqueViolation):
        await database.transaction("failing", failing)
    assert seen == ["after"]
    assert database.metrics.transactions["failing"].errors == 1


@pytest.mark.parametrize(
    ("bad", "params", "error"),
    [
        ("SELECT syntax error here", (), psycopg2.errors.SyntaxError),
        ("SELECT 1/%s", (0,), psycopg2.errors.DivisionByZero),
        ("SELECT %s", ("\0",), UnstorableText),
    ],
)
@pytest.mark.parametrize("at_start", [True, False])
async def test_swallowed_errors_never_commit(
    database: Database, bad: str, params: tuple[object, ...], error: type[Exception], at_start: bool
) -> None:
    await table(database)

    async def work(txn: Transaction) -> None:
        if not at_start:
            await txn.execute("add", ADD, (1,))
        with pytest.raises(error):
            await txn.execute("bad", bad, params)
        try:
            await txn.execute("add", ADD, (2,))
        except (TransactionAborted, psycopg2.errors.InFailedSqlTransaction):
            return

    if error is UnstorableText and not at_start:  # never sent, so Postgres' transaction is sound
        await database.transaction("work", work)
        assert await content(database) == [1, 2]
    else:
        with pytest.raises(TransactionAborted):
            await database.transaction("work", work)
        assert await content(database) == []


async def test_transactions_that_do_nothing(database_url: str) -> None:
    database = Database(reactor, database_url, pool=PoolSettings(size=1))

    async def nothing(txn: Transaction) -> int:
        return 1

    work = [Deferred.fromCoroutine(database.transaction("nothing", nothing)) for _ in range(1500)]
    assert sum(await gatherResults(work)) == 1500
    await database.close()


async def test_many_queued_failures_do_not_exhaust_the_stack(database_url: str) -> None:
    database = Database(reactor, database_url, pool=PoolSettings(size=1))
    failures = [Deferred.fromCoroutine(database.fetch("bad", "SELECT %s", ("\0",))) for _ in range(1900)]
    for failure in failures:
        with pytest.raises(UnstorableText):
            await failure
    assert await database.fetch_one("after", "SELECT 1") == (1,)
    await database.close()


async def test_serialization_failures_are_tried_again(database: Database) -> None:
    await table(database)
    await database.execute("add", ADD, (1,))

    readers = 0
    all_have_read: Deferred[None] = Deferred()

    async def increment(txn: Transaction) -> None:
        nonlocal readers
        row = await txn.fetch_one("read", "SELECT b FROM t WHERE a = 1")
        assert row is not None
        readers += 1
        if readers == 3:
            all_have_read.callback(None)
        await _once(all_have_read)
        await txn.execute("write", "UPDATE t SET b = %s WHERE a = 1", (row[0] + 1,))

    rivals = [
        Deferred.fromCoroutine(database.transaction("inc", increment, isolation="serializable"))
        for _ in range(3)
    ]
    await gatherResults(rivals)
    assert await database.fetch_one("read", "SELECT b FROM t") == (3,)
    assert database.metrics.retries >= 1


async def test_deadlocks_are_tried_again(database: Database) -> None:
    await table(database)
    await database.execute("add", "INSERT INTO t VALUES (1), (2)")
    held: list[Deferred[None]] = [Deferred(), Deferred()]

    async def crosswise(txn: Transaction, mine: int) -> None:
        await txn.execute("timeout", "SET LOCAL deadlock_timeout = '10ms'")
        await txn.execute("one", "UPDATE t SET b = b + 1 WHERE a = %s", (mine + 1,))
        if not held[mine].called:
            held[mine].callback(None)
        await _once(held[1 - mine])
        await txn.execute("two", "UPDATE t SET b = b + 1 WHERE a = %s", (2 - mine,))

    await gatherResults(
        [
            Deferred.fromCoroutine(database.transaction("cross", lambda txn, mine=mine: crosswise(txn, mine)))
            for mine in (0, 1)
        ]
    )
    assert await database.fetch("read", "SELECT a, b FROM t ORDER BY a") == [(1, 2), (2, 2)]
    assert database.metrics.retries >= 1


def _once(event: Deferred[None]) -> Deferred[None]:
    waiter: Deferred[None] = Deferred()
    event.addCallback(lambda result: waiter.callback(None))
    return waiter


async def test_snapshots_see_one_moment_and_cannot_write(database: Database) -> None:
    await table(database)

    async def read(txn: Transaction) -> None:
        assert await txn.fetch("read", "SELECT a FROM t") == []
        await database.execute("add", ADD, (1,))
        assert await txn.fetch("read", "SELECT a FROM t") == []
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            await txn.execute("add", ADD, (2,))
        raise LookupError

    with pytest.raises(LookupError):
        await database.snapshot("read", read)
    assert await content(database) == [1]


async def test_one_statement_at_a_time(database: Database) -> None:
    async def work(txn: Transaction) -> None:
        first = Deferred.fromCoroutine(txn.execute("one", "SELECT 1"))
        with pytest.raises(RuntimeError, match="one statement at a time"):
            await txn.execute("two", "SELECT 2")
        await first

    await database.transaction("work", work)


async def test_cancelled_transactions_roll_back_and_keep_the_connection(database_url: str) -> None:
    database = Database(reactor, database_url, pool=PoolSettings(size=1))
    await table(database)

    async def work(txn: Transaction) -> None:
        await txn.execute("add", ADD, (1,))
        await txn.execute("sleep", "SELECT pg_sleep(0.05)")

    running = Deferred.fromCoroutine(database.transaction("work", work))
    waiting = Deferred.fromCoroutine(database.transaction("work", work))
    while "sleep" not in database.metrics.statements:
        await _turn()
    for deferred in (waiting, running):
        deferred.cancel()
        with pytest.raises(CancelledError):
            await deferred
    assert await content(database) == []
    assert database.statistics()["connections"] == 1
    assert database.metrics.connections_lost == 0
    await database.close()


async def test_cancelling_during_commit_still_calls_back(database: Database) -> None:
    await table(database)
    seen: list[bool] = []

    async def work(txn: Transaction) -> None:
        await txn.execute("add", ADD, (1,))
        txn.after_commit(lambda: seen.append(True))

    await database.fetch("warm", "SELECT 1")
    transaction = Deferred.fromCoroutine(database.transaction("work", work))
    while not _committing(database):
        await _turn()
    transaction.cancel()
    with pytest.raises(CancelledError):
        await transaction
    while not seen:
        await _turn()
    assert await content(database) == [1]


def _committing(database: Database) -> bool:
    return any(
        conn.operation is not None and conn.operation.statement == "COMMIT" for conn in database._pool._open
    )


def _turn() -> Deferred[None]:
    deferred: Deferred[None] = Deferred()
    reactor.callLater(0, deferred.callback, None)
    return deferred


async def test_waiting_ends_when_no_connection_comes(database_url: str) -> None:
    database = Database(reactor, database_url, pool=PoolSettings(size=1, wait_timeout=0.05))
    while not database.statistics()["connections"]:  # to open it takes a busy machine longer than that
        with contextlib.suppress(DatabaseUnavailable):
            await database.fetch("first", "SELECT 1")
    blocker = Deferred.fromCoroutine(database.fetch("sleep", "SELECT pg_sleep(1.5)"))
    with pytest.raises(DatabaseUnavailable):
        await database.fetch("late", "SELECT 1")
    await blocker
    await database.close()
