# SPDX-License-Identifier: Apache-2.0
"""What can go wrong at the database door.

    DatabaseFailure
    ├── DatabaseUnavailable    nothing was done; the same call may succeed later
    │   ├── DatabaseOverloaded     the waiting queue is full
    │   └── DatabaseClosed         this process is shutting its pool down
    ├── ConnectionLost         a statement that may write was under way: its outcome is unknown
    ├── StatementTimeout       Postgres cancelled the statement; nothing of it was done
    ├── LockTimeout            a lock was not granted in time; nothing was done
    ├── TransactionAborted     the work swallowed a statement's error, so Postgres rolled back at COMMIT
    └── UnstorableText         (also a ValueError) text Postgres can't hold: NUL or a lone surrogate

Errors about the data itself (a violated constraint, say) stay `psycopg2.errors.*`, and only stores, which
know their constraints, catch those.
"""

from __future__ import annotations

import psycopg2


class DatabaseFailure(Exception):
    """Anything the database door reports by a type of its own."""


class DatabaseUnavailable(DatabaseFailure):
    """No connection could be had in time. Nothing was sent to Postgres."""


class DatabaseOverloaded(DatabaseUnavailable):
    """So many operations wait already that one more would only wait in vain."""


class DatabaseClosed(DatabaseUnavailable):
    """The pool is closed or closing."""


class ConnectionLost(DatabaseFailure):
    """The connection ended while a statement that may write was under way: it may or may not have been
    committed.
    """


class StatementTimeout(DatabaseFailure):
    """The statement ran longer than `statement_timeout` (or an administrator cancelled it) and was undone."""


class LockTimeout(DatabaseFailure):
    """A row, table or advisory lock was not granted within `lock_timeout`."""


class TransactionAborted(DatabaseFailure):
    """The transaction was rolled back at COMMIT, because a statement in it failed and its error was not
    passed on.
    """


class UnstorableText(DatabaseFailure, ValueError):
    """A text parameter holds what a Postgres text value can't: U+0000 or an unpaired surrogate."""


_LOST = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"})
"""FATAL conditions (shutdown, crash, start-up, idle and transaction timeouts) after which the server hangs
up.
"""

_RETRYABLE = frozenset({"40001", "40P01"})
"""serialization_failure and deadlock_detected: Postgres asks for the whole transaction to be tried again."""


def is_connection_lost(error: BaseException) -> bool:
    """Whether an error raised while a statement was under way means that its connection is gone.

    libpq reports a broken socket without an SQLSTATE; a report that has one came from a living server.
    """
    if not isinstance(error, psycopg2.Error) or isinstance(error, psycopg2.ProgrammingError):
        return (
            False  # psycopg2 itself raises ProgrammingError, without a code, for a parameter it can't adapt
        )
    code = error.pgcode
    return code is None or code in _LOST or code.startswith("08")


def is_retryable(error: BaseException) -> bool:
    """Whether Postgres rolled a transaction back only because of others that ran beside it."""
    return isinstance(error, psycopg2.Error) and error.pgcode in _RETRYABLE


def translate(error: Exception) -> Exception:
    """The error a caller sees for what psycopg2 raised, be it on sending or on the server's answer.

    Its text is Postgres' sentence alone: the detail and the excerpt of the statement that follow hold rows (messages,
    hashes of passwords), and errors end in logs. Stores read them off `diag`.
    """
    if isinstance(error, psycopg2.Error):
        if error.diag.message_primary:
            error.args = (f"{error.diag.message_primary} (SQLSTATE {error.pgcode})",)
        match error.pgcode:
            case "57014":
                return StatementTimeout(str(error).strip())
            case "55P03":
                return LockTimeout(str(error).strip())
            case (
                "22021" | "22P05"
            ):  # character_not_in_repertoire, untranslatable_character ("\\u0000" in jsonb)
                return UnstorableText(str(error).strip())
        return error
    if isinstance(error, UnicodeEncodeError) or (isinstance(error, ValueError) and "NUL" in str(error)):
        return UnstorableText("text parameters can't hold U+0000 or unpaired surrogates")
    return error
