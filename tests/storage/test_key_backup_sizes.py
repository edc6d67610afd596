# SPDX-License-Identifier: Apache-2.0
"""Migration 0035 on backups that are there: it counts their keys, those too that come while it counts."""

from __future__ import annotations

import threading
from contextlib import closing

import psycopg2
import pytest

from storage.migrate import load_migrations, migrate
from tests.waiting import wait_until

_BEFORE = 34
_ADD = """
WITH added AS (
    INSERT INTO backed_up_keys SELECT %(user_id)s, %(version)s, '!ö', %(name)s || n, 0, 0, false, repeat('x', %(size)s)
    FROM generate_series(1, %(count)s) AS n
)
UPDATE key_backups SET etag = etag + 1 WHERE user_id = %(user_id)s AND version = %(version)s
"""
_SIZES = "SELECT user_id, version, keys, bytes FROM key_backups ORDER BY user_id, version"
_WAITS = """
SELECT EXISTS (
    SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
"""
_KEY_BYTES = 128 + len("!ö".encode()) + len("s1")


@pytest.fixture
def before(empty_database_url: str) -> str:
    """A database of the release before, with backups."""
    migrate(empty_database_url, load_migrations()[:_BEFORE])
    with (
        closing(psycopg2.connect(empty_database_url)) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("INSERT INTO users (user_id, created_ts) VALUES ('@a:x', 0), ('@b:x', 0)")
        cursor.execute(
            "INSERT INTO key_backups (user_id, version, algorithm, auth_data, deleted) VALUES "
            "('@a:x', 1, 'a', '{}', true), ('@a:x', 2, 'a', '{}', false), ('@b:x', 1, 'a', '{}', false)"
        )
        cursor.execute(_ADD, {"user_id": "@a:x", "version": 2, "name": "s", "size": 5000, "count": 3})
    return empty_database_url


def test_keys_that_are_there_are_counted(before: str) -> None:
    migrate(before)
    with closing(psycopg2.connect(before)) as connection, connection.cursor() as cursor:
        cursor.execute(_SIZES)
        assert cursor.fetchall() == [
            ("@a:x", 1, 0, 0),
            ("@a:x", 2, 3, 3 * (_KEY_BYTES + 5000)),
            ("@b:x", 1, 0, 0),
        ]


def test_so_are_those_that_come_meanwhile(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a process of the release before, which goes on; then, too, when the migration is done."""
    monkeypatch.setattr("storage.migrate._LOCK_TIMEOUT", "10min")  # however long this machine stands
    with closing(psycopg2.connect(before)) as old, closing(psycopg2.connect(before)) as looking:
        looking.autocommit = True
        with old.cursor() as cursor, looking.cursor() as asked:
            cursor.execute(_ADD, {"user_id": "@a:x", "version": 2, "name": "t", "size": 10, "count": 2})
            cursor.execute(_ADD, {"user_id": "@b:x", "version": 1, "name": "s", "size": 10, "count": 1})
            migrating = threading.Thread(target=migrate, args=(before,))
            migrating.start()

            def waits() -> bool:
                asked.execute(_WAITS)
                return asked.fetchone() == (True,)

            wait_until(waits, "the migration waits for the release before")
            old.commit()
            migrating.join()
            cursor.execute(
                "INSERT INTO key_backups (user_id, version, algorithm, auth_data) VALUES ('@b:x', 2, 'a', '{}')"
            )
            cursor.execute(_ADD, {"user_id": "@b:x", "version": 2, "name": "s", "size": 10, "count": 1})
            old.commit()
            asked.execute(_SIZES)
            assert asked.fetchall() == [
                ("@a:x", 1, 0, 0),
                ("@a:x", 2, 5, 3 * (_KEY_BYTES + 5000) + 2 * (_KEY_BYTES + 10)),
                ("@b:x", 1, 1, _KEY_BYTES + 10),
                ("@b:x", 2, 1, _KEY_BYTES + 10),
            ]
