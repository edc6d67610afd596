# SPDX-License-Identifier: Apache-2.0
"""Single statements at the database door: values in and out, errors, and many at once."""

from __future__ import annotations

import orjson
import psycopg2
import pytest
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from storage.database import (
    ConnectionSettings,
    Database,
    DatabaseClosed,
    DatabaseOverloaded,
    JsonRows,
    LockTimeout,
    PoolSettings,
    Prepared,
    StatementTimeout,
    UnstorableText,
)
from tests.reactor import reactor


@pytest.mark.parametrize(
    ("expression", "params", "expected"),
    [
        ("%s::text", ("héllo 🎉 %s 'x' \\ \n",), "héllo 🎉 %s 'x' \\ \n"),
        ("%s::bigint", (2**63 - 1,), 2**63 - 1),
        ("%(a)s::text || %(a)s", {"a": "b"}, "bb"),
        ("%s::bytea", (b"\x00\xff'\\",), b"\x00\xff'\\"),
        ("ARRAY[%s::bytea, NULL]", (b"\x00a",), [b"\x00a", None]),
        ("%s::text[]", (["a", "b,}", None],), ["a", "b,}", None]),
        ("%s::jsonb", ('{"a": [1, null, "é"]}',), {"a": [1, None, "é"]}),
        ("%s::json::text", ('{"a":  1}',), '{"a":  1}'),
        ("NULL::bytea", (), None),
        ("'100%'", (), "100%"),
        ("repeat(%s, 3000000)", ("x",), "x" * 3_000_000),
        ("length(%s)", ("y" * 5_000_000,), 5_000_000),
    ],
)
async def test_values_round_trip(
    database: Database, expression: str, params: object, expected: object
) -> None:
    assert await database.fetch("value", f"SELECT {expression}", params) == [(expected,)]  # type: ignore[arg-type]


async def test_shapes_of_answers(database: Database) -> None:
    assert await database.fetch_one("none", "SELECT 1 WHERE false") is None
    assert await database.fetch("none", "SELECT 1 WHERE false") == []
    await database.execute("create", "CREATE TABLE t (a int)")
    assert await database.execute("insert", "INSERT INTO t SELECT generate_series(1, 7)") == 7
    assert await database.fetch_one("first", "SELECT a, -a FROM t ORDER BY a") == (1, -1)


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
async def test_text_postgres_cannot_hold(database: Database, text: str) -> None:
    with pytest.raises(UnstorableText):
        await database.fetch("bad", "SELECT %s::text", (text,))
    with pytest.raises(UnstorableText):
        await database.fetch("bad", "SELECT %s::text[]", ([text],))
    assert await database.fetch_one("after", "SELECT 1") == (1,)


async def test_nul_inside_json(database: Database) -> None:
    with pytest.raises(UnstorableText):
        await database.fetch("bad", "SELECT %s::jsonb", (orjson.dumps("a\0").decode(),))
    with pytest.raises(UnstorableText):
        await database.fetch("bad", "SELECT %s", (JsonRows([{"a": "x\0"}]),))
    assert await database.fetch_one("good", "SELECT %s::jsonb", (JsonRows(["a\\u0000"]),)) == (["a\\u0000"],)


@pytest.mark.parametrize("text", ["'%s\\\n☃", "'%s''☃' || '"])
async def test_rows_as_one_json_text(database: Database, text: str) -> None:
    """With and without a backslash, which are quoted in two ways."""
    rows = [{"a": n, "b": f"{text}{n}"} for n in range(1000)]
    answer = await database.fetch(
        "rows", "SELECT * FROM json_to_recordset(%s) AS r(a int, b text)", (JsonRows(rows),)
    )
    assert answer == [(row["a"], row["b"]) for row in rows]


async def test_parameters_that_cannot_be_adapted_leave_the_connection_usable(database: Database) -> None:
    for params in ((object(),), (1, 2), ()):
        with pytest.raises((psycopg2.Error, TypeError, IndexError)):
            await database.fetch("bad", "SELECT %s", params)
    assert await database.fetch_one("after", "SELECT 1") == (1,)
    assert database.metrics.connections_lost == 0


async def test_errors_about_the_data_come_as_they_are(database: Database) -> None:
    await database.execute("create", "CREATE TABLE t (a int PRIMARY KEY)")
    await database.execute("insert", "INSERT INTO t VALUES (1)")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        await database.execute("insert", "INSERT INTO t VALUES (1)")
    assert database.metrics.statements["insert"].errors == 1
    assert database.metrics.statements["insert"].count == 1


async def test_prepared_statements(database: Database) -> None:
    named = Prepared("SELECT %(a)s::int + %(b)s::int * %(a)s, '%%'")
    positional = Prepared("SELECT %s::int - %s::int")
    wrong = Prepared("SELECT nothing FROM nowhere WHERE x = %s")
    for _ in range(20):
        assert await database.fetch_one("named", named, {"a": 2, "b": 3}) == (8, "%")
        assert await database.fetch("positional", positional, (5, 7)) == [(-2,)]
        with pytest.raises(psycopg2.errors.UndefinedTable):
            await database.fetch("wrong", wrong, (1,))
    prepared = await database.fetch("all", "SELECT name FROM pg_prepared_statements ORDER BY 1")
    assert prepared == [(name,) for name in sorted([named.identifier, positional.identifier])]


def test_prepared_statements_do_not_mix_parameter_styles() -> None:
    with pytest.raises(ValueError, match="named or all positional"):
        Prepared("SELECT %s, %(a)s")


async def test_many_at_once_share_the_pool_in_order(database: Database) -> None:
    await database.execute("create", "CREATE TABLE t (a int)")
    inserts = [
        Deferred.fromCoroutine(database.execute("insert", "INSERT INTO t VALUES (%s)", (n,)))
        for n in range(500)
    ]
    assert database.statistics()["waiting"] > 400
    assert await gatherResults(inserts) == [1] * 500
    assert database.statistics() == {
        "connections": 4, "connections_idle": 4, "connections_opening": 0, "waiting": 0
    }  # fmt: skip
    assert await database.fetch_one("sum", "SELECT count(*), sum(a) FROM t") == (500, 499 * 250)


async def test_a_full_queue_refuses(database_url: str) -> None:
    database = Database(reactor, database_url, pool=PoolSettings(size=1, queue_limit=3))
    waiting = [Deferred.fromCoroutine(database.fetch("one", "SELECT 1")) for _ in range(3)]
    with pytest.raises(DatabaseOverloaded):
        await database.fetch("one", "SELECT 1")
    assert await gatherResults(waiting) == [[(1,)]] * 3
    assert await database.fetch("one", "SELECT 1") == [(1,)]
    await database.close()
    with pytest.raises(DatabaseClosed):
        await database.fetch("one", "SELECT 1")


async def test_cancelled_statements(database_url: str) -> None:
    database = Database(reactor, database_url, pool=PoolSettings(size=1))
    await database.execute("create", "CREATE TABLE t (a int)")
    sent = Deferred.fromCoroutine(database.execute("sent", "INSERT INTO t SELECT 1 FROM pg_sleep(0.05)"))
    queued = Deferred.fromCoroutine(database.execute("queued", "INSERT INTO t VALUES (2)"))
    for deferred in (sent, queued):
        deferred.cancel()
        with pytest.raises(CancelledError):
            await deferred
    assert await database.fetch("after", "SELECT a FROM t") == [(1,)]
    await database.close()


async def test_settings_reach_the_session(database_url: str) -> None:
    database = Database(
        reactor,
        database_url,
        connection=ConnectionSettings(application_name="it's me", statement_timeout=1.0),
    )
    for name, expected in {
        "application_name": "it's me", "client_encoding": "UTF8", "jit": "off", "synchronous_commit": "on",
        "statement_timeout": "1s", "lock_timeout": "20s", "search_path": "public",
    }.items():  # fmt: skip
        assert await database.fetch_one("setting", "SELECT current_setting(%s)", (name,)) == (expected,)
    with pytest.raises(StatementTimeout):
        await database.fetch("sleep", "SELECT pg_sleep(60)")
    await database.close()


async def test_locks_are_not_waited_for_without_end(database_url: str) -> None:
    # A session has its own locks as often as it asks for them.
    holder = Database(reactor, database_url, pool=PoolSettings(size=1))
    await holder.execute("lock", "SELECT pg_advisory_lock(1)")
    database = Database(reactor, database_url, connection=ConnectionSettings(lock_timeout=0.05))
    with pytest.raises(LockTimeout):
        await database.execute("lock", "SELECT pg_advisory_lock(1)")
    await database.close()
    await holder.close()


async def test_metrics_are_readable(database: Database) -> None:
    await database.fetch("some_name", "SELECT 1")
    samples = {
        (sample.name, sample.labels.get("name"), sample.labels.get("le")): sample.value
        for metric in database.metrics.collect()
        for sample in metric.samples
    }
    assert samples["lares_database_statement_seconds_count", "some_name", None] == 1
    assert samples["lares_database_statement_seconds_bucket", "some_name", "+Inf"] == 1
    assert samples["lares_database_pool_connections", None, None] == 1
