# SPDX-License-Identifier: Apache-2.0
"""The database door: everything the stores need to talk to Postgres, and nothing about what they store.

`Database` is the whole interface. Its connections are psycopg2 in non-blocking mode, registered on the
Twisted reactor themselves, so that an operation costs neither a thread switch nor a lock.
"""

from storage.database.database import Database
from storage.database.errors import (
    ConnectionLost,
    DatabaseClosed,
    DatabaseFailure,
    DatabaseOverloaded,
    DatabaseUnavailable,
    LockTimeout,
    StatementTimeout,
    TransactionAborted,
    UnstorableText,
    is_retryable,
)
from storage.database.prepared import Prepared
from storage.database.rows import JsonRows
from storage.database.settings import ConnectionSettings, PoolSettings
from storage.database.transaction import Isolation, Transaction

__all__ = [
    "ConnectionLost",
    "ConnectionSettings",
    "Database",
    "DatabaseClosed",
    "DatabaseFailure",
    "DatabaseOverloaded",
    "DatabaseUnavailable",
    "Isolation",
    "JsonRows",
    "LockTimeout",
    "PoolSettings",
    "Prepared",
    "StatementTimeout",
    "Transaction",
    "TransactionAborted",
    "UnstorableText",
    "is_retryable",
]
