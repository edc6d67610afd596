# SPDX-License-Identifier: Apache-2.0
"""What happens when Postgres hangs up: under a statement, under a transaction, while idle, while listening."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg2
import pytest
from twisted.internet.defer import Deferred, gatherResults

from storage.database import ConnectionLost, Database, DatabaseUnavailable, PoolSettings, Transaction
from storage.embedded import EmbeddedPostgres
from tests.reactor import reactor

OTHERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


def turn(delay: float = 0.0) -> Deferred[None]:
    deferred: Deferred[None] = Deferred()
    reactor.callLater(delay, deferred.callback, None)
    return deferred


def kill_others(url: str, query: str = "%") -> int:
    """End every other session on the database whose latest statement is like `query`; how many there were."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(pg_terminate_backend(pid, 5000)) FROM ({OTHERS} AND query LIKE %s) o", (query,)
        )
        row = cursor.fetchone()
        assert row is not None
        count: int = row[0]
        return count


async def until_running(url: str, query: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        while True:
            with connection.cursor() as cursor:
                cursor.execute(f"{OTHERS} AND state = 'active' AND query LIKE %s", (query,))
                if cursor.fetchone():
                    return
            await turn(0.002)


@pytest.fixture
def single(database_url: str) -> Database:
    """A pool of one connection, so that tests know which it is. Tests close it."""
    return Database(reactor, database_url, pool=PoolSettings(size=1))


async def test_an_idle_connection_is_replaced(single: Database, database_url: str) -> None:
    await single.execute("create", "CREATE TABLE t (a int)")
    assert kill_others(database_url) == 1
    while single.statistics()["connections"]:
        await turn()
    assert await single.execute("insert", "INSERT INTO t VALUES (1)") == 1
    assert single.metrics.connections_lost == 1
    await single.close()


async def test_a_read_is_sent_again_once(single: Database, database_url: str) -> None:
    read = Deferred.fromCoroutine(single.fetch("read", "SELECT 7 FROM pg_sleep(0.3)"))
    await until_running(database_url, "SELECT 7%")
    kill_others(database_url)
    assert await read == [(7,)]

    read = Deferred.fromCoroutine(single.fetch("read", "SELECT 8 FROM pg_sleep(120)"))
    for _ in range(2):
        await until_running(database_url, "SELECT 8%")
        kill_others(database_url)
    with pytest.raises(ConnectionLost):
        await read
    await single.close()


@pytest.mark.parametrize("kind", ["execute", "returning", "function"])
async def test_a_write_is_never_sent_twice(single: Database, database_url: str, kind: str) -> None:
    await single.execute("create", "CREATE TABLE t (a int)")
    statement = "INSERT INTO t SELECT 1 FROM pg_sleep(120)"
    if kind == "execute":
        write = Deferred.fromCoroutine(single.execute("write", statement))
    elif kind == "returning":
        write = Deferred.fromCoroutine(single.fetch("write", statement + " RETURNING a"))  # type: ignore[arg-type]
    else:
        statement = "SELECT pg_sleep(120)"
        write = Deferred.fromCoroutine(single.fetch("write", statement, retry=False))  # type: ignore[arg-type]
    await until_running(database_url, statement + "%")
    kill_others(database_url)
    with pytest.raises(ConnectionLost):
        await write
    assert await single.fetch("read", "SELECT a FROM t") == []
    await single.close()


@pytest.mark.parametrize("moment", ["first", "later", "between"])
async def test_a_transaction_starts_over_before_its_commit(
    single: Database, database_url: str, moment: str
) -> None:
    await single.execute("create", "CREATE TABLE t (a int)")
    attempts = 0

    async def work(txn: Transaction) -> int:
        nonlocal attempts
        attempts += 1
        sleep = f"SELECT pg_sleep({120 if attempts == 1 else 0})"
        if moment == "first":
            await txn.execute("sleep", sleep)
        await txn.execute("insert", "INSERT INTO t VALUES (1)")
        if moment == "later":
            await txn.execute("sleep", sleep)
        if moment == "between" and attempts == 1:
            kill_others(database_url)
            while single.statistics()["connections"]:
                await turn()
        return attempts

    transaction = Deferred.fromCoroutine(single.transaction("work", work))
    if moment != "between":
        await until_running(database_url, "%pg_sleep(120)%")
        kill_others(database_url)
    assert await transaction == 2
    assert await single.fetch("read", "SELECT a FROM t") == [(1,)]
    await single.close()


async def test_a_transaction_lost_in_its_commit_is_reported(single: Database, database_url: str) -> None:
    await single.execute("create", "CREATE TABLE t (a int)")
    await single.execute(
        "slow",
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(120); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    attempts = []

    async def work(txn: Transaction) -> None:
        attempts.append(1)
        await txn.execute("insert", "INSERT INTO t VALUES (1)")
        txn.after_commit(lambda: attempts.append(2))

    transaction = Deferred.fromCoroutine(single.transaction("work", work))
    await until_running(database_url, "COMMIT")
    kill_others(database_url)
    with pytest.raises(ConnectionLost):
        await transaction
    assert attempts == [1]
    await single.close()


async def test_notifications_and_catching_up(database: Database, database_url: str) -> None:
    heard: list[str] = []
    back: list[bool] = []
    await database.listen("one", heard.append, lambda: back.append(True))
    await database.listen('t"wo', lambda payload: heard.append("two:" + payload))

    async def speak(txn: Transaction) -> None:
        await txn.execute("notify", "SELECT pg_notify('one', 'a'), pg_notify(%s, 'b')", ('t"wo',))

    await database.transaction("speak", speak)
    while len(heard) < 2:
        await turn()
    assert heard == ["a", "two:b"]
    for round_ in (1, 2):
        assert kill_others(database_url, "LISTEN%") == 1
        while len(back) < round_:
            await turn()
        await database.execute("notify", "SELECT pg_notify('one', 'again')")
        while len(heard) < 2 + round_:
            await turn()
    assert heard[2:] == ["again", "again"]


async def test_a_failing_listener_disturbs_no_other(database: Database) -> None:
    heard: list[str] = []

    def fail(payload: str) -> None:
        raise LookupError(payload)

    await gatherResults(
        [Deferred.fromCoroutine(database.listen("c", callback)) for callback in (fail, heard.append)]
    )
    await database.execute("notify", "NOTIFY c, 'x'")
    await database.execute("notify", "NOTIFY c, 'y'")
    while len(heard) < 2:
        await turn()
    assert heard == ["x", "y"]


async def test_channel_names_postgres_would_cut_off(database: Database) -> None:
    with pytest.raises(ValueError, match="63"):
        await database.listen("c" * 64, lambda payload: None)


async def test_no_server_at_all(tmp_path: Path) -> None:
    database = Database(
        reactor, f"host={tmp_path} port=1 dbname=x user=x", pool=PoolSettings(wait_timeout=0.1)
    )
    with pytest.raises(DatabaseUnavailable) as caught:
        await database.fetch("any", "SELECT 1")
    assert isinstance(caught.value.__cause__, psycopg2.OperationalError)
    await database.close()


@pytest.fixture
def own_server() -> Iterator[tuple[EmbeddedPostgres, str]]:
    with TemporaryDirectory(prefix="lares-test-") as directory:
        Path(directory).chmod(0o755)
        server = EmbeddedPostgres(Path(directory))
        try:
            yield server, server.start()
        finally:
            server.stop()


async def test_a_killed_database_loses_nothing_acknowledged(own_server: tuple[EmbeddedPostgres, str]) -> None:
    """kill -9 of the whole server under load, several times: the pool recovers by itself, each time."""
    server, url = own_server
    # Recovery stops this process, too: what is late afterwards is not to be given up at once.
    database = Database(reactor, url, pool=PoolSettings(size=4, wait_timeout=300))
    await database.execute("create", "CREATE TABLE t (a int PRIMARY KEY)")
    acknowledged: list[int] = []
    unknown: list[int] = []
    stop = False

    async def write(worker: int) -> None:
        number = worker * 1_000_000
        while not stop:
            number += 1
            try:
                await database.execute("insert", "INSERT INTO t VALUES (%s)", (number,))
                acknowledged.append(number)
            except ConnectionLost:
                unknown.append(number)

    writers = [Deferred.fromCoroutine(write(worker)) for worker in range(8)]
    for _ in range(3):
        goal = len(acknowledged) + 300
        while len(acknowledged) < goal:
            await turn()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        while database.statistics()["connections"]:
            await turn()
        server.stop()
        assert server.start() == url
    goal = len(acknowledged) + 300
    while len(acknowledged) < goal:
        await turn()
    stop = True
    await gatherResults(writers)
    stored = {row[0] for row in await database.fetch("all", "SELECT a FROM t")}
    assert stored >= set(acknowledged)
    assert stored <= set(acknowledged) | set(unknown)
    await database.close()
