# SPDX-License-Identifier: Apache-2.0
"""Brings a database's schema to the version this code needs, at start-up, over a plain blocking connection.

Migrations are the files `storage/migrations/NNNN_name.sql`, numbered from 1 without gaps, applied in order, each in
one transaction with the note that it was, never changed once released, never undone. Two processes that start
together are serialized by an advisory lock; the later finds nothing to do. One that gets into the way of a server that
goes on meanwhile, by a deadlock or a lock that is not given up, is tried again a few times.

A migration must leave a schema that the release before still works with, or raise the oldest version that does by a
comment line of its own, `-- oldest code: NNNN`: code knowing only migrations below NNNN then refuses to start.
"""

from __future__ import annotations

import os
import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
from msgspec import Struct
from psycopg2.errors import DeadlockDetected, LockNotAvailable
from psycopg2.extensions import connection

if TYPE_CHECKING:  # who migrates need not load what a server serves with
    from storage.database import Database

_FILE_NAME = re.compile(r"(?P<number>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_OLDEST_CODE = re.compile(r"^-- oldest code: (\d{4})\s*$", re.MULTILINE)
_APPLIED = "SELECT coalesce(max(number), 0), coalesce(max(oldest_code), 0) FROM schema_version"
_OTHERS_LIVE = "SELECT EXISTS (SELECT FROM server_processes WHERE until > now())"
_DIRECTORY = Path(__file__).with_name("migrations")
_ADVISORY_LOCK = 0x6C61726573  # "lares"
_WAIT_FOR_OTHERS = "10min"
_LOCK_TIMEOUT = "10s"
_STATEMENT_TIMEOUT = "1h"
_ATTEMPTS = 4
"""As a lock is waited for in each, what queues behind it goes on between two."""


class MigrationError(Exception):
    """The schema can't be brought to this code's version; the message says why."""


class DatabaseTooNew(MigrationError):
    """A newer release changed the database in a way this code can't work with."""


class DatabaseTooOld(MigrationError):
    """Migrations of this code have not been applied."""


class Migration(Struct, frozen=True):
    """One file. `oldest_code` is the newest migration that code must know to work with this one applied."""

    number: int
    name: str
    sql: str
    oldest_code: int


def load_migrations(directory: Path | None = None) -> list[Migration]:
    """The migrations of `directory`, by default the package's own, in order. Raises `MigrationError`."""
    found = []
    for entry in (directory or _DIRECTORY).iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE_NAME.fullmatch(entry.name)
        if match is None:
            raise MigrationError(f"{entry.name}: migrations are named NNNN_name.sql")
        sql = entry.read_text(encoding="utf-8")
        oldest = _OLDEST_CODE.search(sql)
        found.append(Migration(int(match["number"]), match["name"], sql, int(oldest[1]) if oldest else 0))
    found.sort(key=lambda migration: migration.number)
    for expected, migration in enumerate(found, start=1):
        if migration.number != expected:
            raise MigrationError(f"migration {expected:04} is missing or its number is used twice")
    return found


def known_version(directory: Path | None = None) -> int:
    """The number of the newest migration of `directory`, by default the package's own. Reads none of them."""
    names = map(_FILE_NAME.fullmatch, os.listdir(directory or _DIRECTORY))
    return max((int(match["number"]) for match in names if match is not None), default=0)


async def check_version(database: Database, known: int | None = None) -> None:
    """Raise `DatabaseTooOld` or `DatabaseTooNew` unless code that knows so many migrations, by default this one, can
    work with the schema as it is. Nothing is applied.
    """
    if known is None:
        known = known_version()
    row = await database.fetch_one("schema_version", _APPLIED)
    assert row is not None
    version, oldest_code = row
    _refuse_newer(version, oldest_code, known)
    if version < known:
        raise DatabaseTooOld(
            f"it is at version {version}, and the code on disk knows {known}: reload the server or start it anew, "
            "which applies what is missing"
        )


class OthersLeftBehind(MigrationError):
    """A migration would leave processes of an older release without a schema that they can work with. Nothing was
    applied."""


def migrate(dsn: str, migrations: list[Migration] | None = None, *, others_serve: bool = False) -> int:
    """Apply what is missing; the schema's version then. Raises `MigrationError` or `psycopg2.OperationalError`.

    `others_serve`: processes that know just the present version go on meanwhile. What they cannot go on with is not
    applied, and nothing before it. Nor is it while processes of other machines serve.
    """
    if migrations is None:
        migrations = load_migrations()
    with closing(psycopg2.connect(dsn, application_name="lares migrate")) as conn:
        conn.autocommit = True
        _require_utf8(conn)
        with conn.cursor() as cursor:
            cursor.execute("SET search_path = public; SET client_min_messages = warning")
            # The lock is the session's: it spans the transactions below and goes with the connection.
            cursor.execute(f"SET lock_timeout = '{_WAIT_FOR_OTHERS}'")
            cursor.execute("SELECT pg_advisory_lock(%s)", (_ADVISORY_LOCK,))
            cursor.execute(
                f"SET lock_timeout = '{_LOCK_TIMEOUT}'; SET statement_timeout = '{_STATEMENT_TIMEOUT}'"
            )
            cursor.execute(
                "CREATE TABLE IF NOT EXISTS schema_version ("
                " number integer PRIMARY KEY,"
                " name text NOT NULL,"
                " oldest_code integer NOT NULL,"
                " applied_at timestamptz NOT NULL DEFAULT now())"
            )
            cursor.execute(_APPLIED)
            row = cursor.fetchone()
        assert row is not None
        version: int = row[0]
        oldest_code: int = row[1]
        known = len(migrations)
        _refuse_newer(version, oldest_code, known)
        missing = migrations[version:]
        if any(migration.oldest_code > version for migration in missing):
            if others_serve:
                raise OthersLeftBehind(
                    "the release before cannot work with what this one makes of the database: "
                    "stop the server and start it"
                )
            if _others_live(conn):
                raise OthersLeftBehind(
                    "servers of the release before are running on it, which cannot work with what this one makes "
                    "of it: stop all of them first"
                )
        for migration in missing:
            _apply(conn, migration)
        return max(version, known)


def _refuse_newer(version: int, oldest_code: int, known: int) -> None:
    if oldest_code > known:
        raise DatabaseTooNew(
            f"the database is at version {version} and needs a release that knows at least version {oldest_code}; "
            f"this one knows {known}. Start the newer release, or restore the backup made before the upgrade."
        )


def _others_live(conn: connection) -> bool:
    """Whether some server is running, as far as the database knows."""
    with conn.cursor() as cursor:
        cursor.execute("SELECT to_regclass('server_processes') IS NOT NULL")
        known = cursor.fetchone()
        if known != (True,):  # before migration 0028 nobody told
            return False
        cursor.execute(_OTHERS_LIVE)
        return cursor.fetchone() == (True,)


def _require_utf8(conn: connection) -> None:
    with conn.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_encoding'), current_database()")
        row = cursor.fetchone()
    assert row is not None
    encoding, database = row
    if encoding != "UTF8":
        raise MigrationError(
            f"database {database} has encoding {encoding}; create it with "
            f"CREATE DATABASE {database} ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"
        )


def _apply(conn: connection, migration: Migration) -> None:
    for left in reversed(range(_ATTEMPTS)):
        try:
            _try(conn, migration)
            return
        except psycopg2.Error as error:
            if left and isinstance(error, DeadlockDetected | LockNotAvailable):
                continue
            raise MigrationError(
                f"migration {migration.number:04}_{migration.name} failed and was undone: {str(error).strip()}"
            ) from error


def _try(conn: connection, migration: Migration) -> None:
    """All of it, or none. Raises psycopg2.Error."""
    try:
        with conn.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(migration.sql)
            cursor.execute(
                "INSERT INTO schema_version (number, name, oldest_code) VALUES (%s, %s, %s)",
                (migration.number, migration.name, migration.oldest_code),
            )
            cursor.execute("COMMIT")
    except psycopg2.Error:
        if not conn.closed:
            with conn.cursor() as cursor:
                cursor.execute("ROLLBACK")
        raise
