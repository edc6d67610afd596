# SPDX-License-Identifier: Apache-2.0
"""How connections are opened and how many, as frozen values. Reads no configuration itself."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from psycopg2.extensions import make_dsn, parse_dsn


class ConnectionSettings(Struct, frozen=True):
    """What every connection of a pool is told when it opens. Times are in seconds."""

    application_name: str = "lares"
    statement_timeout: float = 60.0
    lock_timeout: float = 20.0
    idle_in_transaction_timeout: float = 60.0
    """Frees the locks of a transaction whose process hangs; far above any transaction's honest length."""
    connect_timeout: float = 10.0

    def complete(self, dsn: str) -> str:
        """The connection string `dsn` (URL or key-value form) with these settings added; `dsn`'s own wins.

        `synchronous_commit` is set here although it is Postgres' default: what is acknowledged must be
        durable even where the database's administrator relaxed it for others.
        """
        given: dict[str, Any] = parse_dsn(dsn)
        options = {
            "statement_timeout": f"{round(self.statement_timeout * 1000)}ms",
            "lock_timeout": f"{round(self.lock_timeout * 1000)}ms",
            "idle_in_transaction_session_timeout": f"{round(self.idle_in_transaction_timeout * 1000)}ms",
            "jit": "off",
            "synchronous_commit": "on",
            "search_path": "public",
            "datestyle": "ISO",
            "client_min_messages": "warning",
        }
        own = " ".join(f"-c {key}={value}" for key, value in options.items())
        settings: dict[str, Any] = {
            "application_name": self.application_name,
            "client_encoding": "UTF8",
            # A vanished machine at the other end is noticed within half a minute (no effect on Unix sockets).
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30000,
            **given,
            "options": f"{own} {given.get('options', '')}".strip(),
        }
        complete: str = make_dsn(**settings)
        return complete


class PoolSettings(Struct, frozen=True):
    """How many connections and how much waiting. Times are in seconds."""

    size: int = 8
    queue_limit: int = 2000
    """Operations that may wait for a connection; the next one fails with `DatabaseOverloaded`."""
    wait_timeout: float = 30.0
    """How long an operation may wait for a connection before `DatabaseUnavailable`."""
    backoff_first: float = 0.05
    backoff_limit: float = 2.0
    """Pauses between attempts to connect double from the first to the limit."""
