# SPDX-License-Identifier: Apache-2.0
"""The migration runner: order, all or nothing, races, and databases of other releases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from storage.database import Database
from storage.migrate import (
    DatabaseTooNew,
    DatabaseTooOld,
    Migration,
    MigrationError,
    OthersLeftBehind,
    check_version,
    known_version,
    load_migrations,
    migrate,
)
from tests.waiting import wait_until


def steps(*statements: str, oldest_code: int = 0) -> list[Migration]:
    return [
        Migration(number, f"step{number}", sql, oldest_code) for number, sql in enumerate(statements, start=1)
    ]


def ask(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def test_the_packages_own_migrations(empty_database_url: str) -> None:
    own = load_migrations()
    assert own
    assert migrate(empty_database_url) == len(own)
    assert migrate(empty_database_url) == len(own)
    applied = ask(empty_database_url, "SELECT number, name FROM schema_version ORDER BY number")
    assert applied == [(migration.number, migration.name) for migration in own]


def test_only_what_is_missing_is_applied(empty_database_url: str) -> None:
    assert migrate(empty_database_url, steps("CREATE TABLE a (x int)")) == 1
    assert (
        migrate(empty_database_url, steps("SELECT 1/0", "CREATE TABLE b (x int); INSERT INTO b VALUES (1)"))
        == 2
    )
    assert ask(empty_database_url, "SELECT * FROM b") == [(1,)]


def test_a_failing_migration_leaves_no_trace(empty_database_url: str) -> None:
    with pytest.raises(MigrationError, match="0002_step2 failed and was undone: division by zero"):
        migrate(empty_database_url, steps("CREATE TABLE a (x int)", "CREATE TABLE b (x int); SELECT 1/0"))
    assert ask(empty_database_url, "SELECT to_regclass('a')::text, to_regclass('b')::text") == [("a", None)]
    assert migrate(empty_database_url, steps("CREATE TABLE a (x int)", "CREATE TABLE b (x int)")) == 2


@pytest.mark.parametrize("state", ["40P01", "55P03"], ids=["deadlock", "lock timeout"])
def test_a_migration_that_is_in_the_way_of_others_is_tried_again(empty_database_url: str, state: str) -> None:
    """It was undone whole; but not for ever."""
    step = f"""INSERT INTO a VALUES (nextval('tries'));
        DO $$ BEGIN
            IF currval('tries') <> 4 THEN RAISE EXCEPTION 'not now' USING ERRCODE = '{state}'; END IF;
        END $$"""
    first = "CREATE SEQUENCE tries; CREATE TABLE a (x int)"
    assert migrate(empty_database_url, steps(first, step)) == 2
    assert ask(empty_database_url, "SELECT x FROM a") == [(4,)]
    with pytest.raises(MigrationError, match="0003_step3 failed and was undone: not now"):
        migrate(empty_database_url, steps(first, step, step))
    assert ask(empty_database_url, "SELECT x FROM a") == [(4,)]
    assert ask(empty_database_url, "SELECT last_value FROM tries") == [(8,)]


def test_a_deadlock_with_a_server_that_goes_on_costs_nobody_anything(empty_database_url: str) -> None:
    """Which locks the same tables the other way round. It is the migration that the database gives up on."""
    first = (
        "CREATE TABLE a (x int); CREATE TABLE b (x int); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)"
    )
    both = "ALTER TABLE a ADD COLUMN y int; ALTER TABLE b ADD COLUMN y int"
    waits = """SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"""
    migrate(empty_database_url, steps(first))
    with (
        ThreadPoolExecutor(1) as threads,
        closing(psycopg2.connect(empty_database_url)) as server,
        server.cursor() as cursor,
    ):
        cursor.execute("SET deadlock_timeout = '1h'")
        server.commit()
        cursor.execute("DELETE FROM b")
        migrating = threads.submit(migrate, empty_database_url, steps(first, both))
        wait_until(lambda: ask(empty_database_url, waits) == [(True,)], "the migration waits for the server")
        cursor.execute("UPDATE a SET x = 2")
        server.commit()
        assert migrating.result() == 2
    assert ask(empty_database_url, "SELECT x, y FROM a") == [(2, None)]
    assert ask(empty_database_url, "SELECT x, y FROM b") == []


def test_those_who_serve_are_not_left_behind(empty_database_url: str) -> None:
    """Beside a release that knows one migration, nothing is applied that it could not work with."""
    first, second = "CREATE TABLE a (x int)", "CREATE TABLE b (x int)"
    migrate(empty_database_url, steps(first))
    with pytest.raises(OthersLeftBehind, match="stop the server and start it"):
        migrate(empty_database_url, steps(first, second, oldest_code=2), others_serve=True)
    assert ask(empty_database_url, "SELECT to_regclass('b')::text") == [(None,)]
    assert migrate(empty_database_url, steps(first, second, oldest_code=1), others_serve=True) == 2


def test_servers_that_could_not_go_on_are_to_be_stopped_first(empty_database_url: str) -> None:
    """Those of other machines, which nobody here can stop; one that died is waited for no longer than its lease."""
    processes = """CREATE TABLE server_processes (until timestamptz);
        INSERT INTO server_processes VALUES (now() + interval '1 minute')"""
    migrate(empty_database_url, steps(processes))
    breaking = steps(processes, "CREATE TABLE b (x int)", oldest_code=2)
    with pytest.raises(OthersLeftBehind, match="stop all of them first"):
        migrate(empty_database_url, breaking)
    assert ask(empty_database_url, "SELECT to_regclass('b')::text") == [(None,)]
    assert migrate(empty_database_url, steps(processes, "CREATE TABLE c (x int)")) == 2
    ended = Migration(3, "ended", "UPDATE server_processes SET until = now()", 0)
    old = steps(processes, "CREATE TABLE c (x int)")
    assert migrate(empty_database_url, [*old, ended]) == 3
    assert migrate(empty_database_url, [*old, ended, Migration(4, "breaking", "SELECT 1", 4)]) == 4


def test_percent_signs_are_left_alone(empty_database_url: str) -> None:
    migrate(empty_database_url, steps("CREATE TABLE a AS SELECT '%s %' AS x"))
    assert ask(empty_database_url, "SELECT x FROM a") == [("%s %",)]


def test_processes_starting_together_do_not_race(empty_database_url: str) -> None:
    slow = steps(
        "CREATE TABLE a (x int); INSERT INTO a VALUES (1); SELECT pg_sleep(0.2)", "INSERT INTO a VALUES (2)"
    )
    with ThreadPoolExecutor(6) as threads:
        versions = list(threads.map(lambda _: migrate(empty_database_url, slow), range(6)))
    assert versions == [2] * 6
    assert ask(empty_database_url, "SELECT x FROM a ORDER BY x") == [(1,), (2,)]


def test_a_newer_database_is_refused_only_if_it_says_so(empty_database_url: str) -> None:
    old = steps("CREATE TABLE a (x int)")
    migrate(empty_database_url, [*old, Migration(2, "added", "CREATE TABLE b (x int)", 0)])
    assert migrate(empty_database_url, old) == 2
    migrate(
        empty_database_url,
        [*old, Migration(2, "added", "", 0), Migration(3, "dropped", "DROP TABLE a", 2)],
    )
    assert migrate(empty_database_url, [*old, Migration(2, "added", "", 0)]) == 3
    with pytest.raises(DatabaseTooNew, match="knows 1"):
        migrate(empty_database_url, old)


async def test_code_of_another_release_is_told_from_what_can_go_on(database: Database) -> None:
    """Without applying anything: code with migrations that are missing, and code that the schema has left behind."""
    newest = known_version()
    assert newest == len(load_migrations())
    await check_version(database)
    with pytest.raises(DatabaseTooOld, match=f"at version {newest}, and the code on disk knows {newest + 1}"):
        await check_version(database, newest + 1)
    add = "INSERT INTO schema_version (number, name, oldest_code) VALUES (%s, 'later', %s)"
    await database.execute("later", add, (newest + 1, newest))
    await check_version(database)
    await database.execute("later", add, (newest + 2, newest + 1))
    with pytest.raises(DatabaseTooNew, match=f"knows {newest}"):
        await check_version(database)


def test_databases_of_another_encoding_are_refused(empty_database_url: str) -> None:
    with closing(psycopg2.connect(empty_database_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
            try:
                with pytest.raises(MigrationError, match="LATIN1"):
                    migrate(make_dsn(empty_database_url, dbname="latin"), [])
            finally:
                cursor.execute("DROP DATABASE latin")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0001_a.sql", "0003_c.sql"], "0002 is missing"),
        (["0001_a.sql", "0001_b.sql"], "0002 is missing or its number is used twice"),
        (["0001-a.sql"], "NNNN_name"),
    ],
)
def test_misnumbered_files_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(MigrationError, match=message):
        load_migrations(tmp_path)


def test_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "0002_two.sql").write_text("-- A comment.\n-- oldest code: 0001\nSELECT 2\n")
    (tmp_path / "0001_one.sql").write_text("SELECT 1")
    (tmp_path / "__init__.py").write_text("")
    one, two = load_migrations(tmp_path)
    assert (one.number, one.name, one.sql, one.oldest_code) == (1, "one", "SELECT 1", 0)
    assert (two.number, two.name, two.oldest_code) == (2, "two", 1)
