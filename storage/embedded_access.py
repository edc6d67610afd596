# SPDX-License-Identifier: Apache-2.0
"""Finding the embedded database of a server that runs in another process, for commands beside it.

Owns reading where it listens; who may get in is the server's to say (`storage/embedded.py`): its own user only.
"""

from __future__ import annotations

from pathlib import Path

from psycopg2.extensions import make_dsn

from storage.embedded import DATABASE, ROLE

_PORT_LINE, _SOCKET_LINE = 3, 4
"""In `postmaster.pid` (Postgres' miscadmin.h)."""


def running_embedded_database(data_dir: Path) -> str | None:
    """The connection string of the database of the server on `data_dir`; None if none seems to run."""
    try:
        lines = (data_dir.absolute() / "postgres" / "postmaster.pid").read_text().splitlines()
    except OSError:
        return None
    if len(lines) <= _SOCKET_LINE or not lines[_SOCKET_LINE]:
        return None
    dsn: str = make_dsn(host=lines[_SOCKET_LINE], port=lines[_PORT_LINE], user=ROLE, dbname=DATABASE)
    return dsn
