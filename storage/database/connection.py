# SPDX-License-Identifier: Apache-2.0
"""One non-blocking Postgres connection on the reactor, running one statement at a time.

Owns the socket's registration, the statement under way and the translation of libpq's state into callbacks.
Knows nothing of pools, queues, retries or transactions; it is told by `Operation.releases` whether its holder
is done with it.

The hot path is `submit` → `doRead` → the operation's Deferred: one Deferred and no epoll_ctl per statement,
as the socket stays registered for reading from the connection's first to its last moment. That also makes a
hang-up of the server visible while the connection is idle.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

import orjson
import psycopg2
from psycopg2 import BINARY
from psycopg2.extensions import (
    POLL_OK,
    POLL_READ,
    connection,
    cursor,
    new_array_type,
    new_type,
    register_type,
)
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

from homeserver.needs import Protocol
from storage.database.errors import ConnectionLost, TransactionAborted, is_connection_lost, translate
from storage.database.metrics import Timing
from storage.database.prepared import Parameters, Prepared, Statement

Rows = list[tuple[Any, ...]]

ROWS, ROW, COUNT = 0, 1, 2
"""What an operation answers with: all rows, the first row or None, the number of rows touched."""

_LARGE = 8192
"""Statements above this many bytes may not fit the socket's buffer, so libpq is asked at once whether they
did.
"""


class DelayedCall(Protocol):
    """A timer of the reactor."""

    def cancel(self) -> None: ...
    def active(self) -> bool: ...


class Reactor(Protocol):
    """What of the Twisted reactor connections and pools use."""

    def addReader(self, reader: Any, /) -> object: ...  # noqa: N802
    def removeReader(self, reader: Any, /) -> object: ...  # noqa: N802
    def addWriter(self, writer: Any, /) -> object: ...  # noqa: N802
    def removeWriter(self, writer: Any, /) -> object: ...  # noqa: N802
    def callLater(self, delay: float, fn: Callable[..., object], /, *args: object) -> DelayedCall: ...  # noqa: N802


class Operation:
    """A statement on its way: what to send, what to answer, whom to tell."""

    __slots__ = ("deferred", "params", "releases", "retry", "shape", "started", "statement", "then", "timing")

    def __init__(
        self,
        statement: Statement,
        params: Parameters,
        shape: int,
        timing: Timing,
        *,
        releases: bool = True,
        retry: bool = False,
        then: Callable[[], None] | None = None,
    ) -> None:
        self.statement = statement
        self.params = params
        self.shape = shape
        self.timing = timing
        self.releases = releases
        """Whether the connection is free for others once the statement is through."""
        self.retry = retry
        """Whether it may be sent again if the connection is lost before the answer."""
        self.then = then
        """Called on success, before the Deferred, and even if nobody waits for that any more."""
        self.started = perf_counter()
        self.deferred: Deferred[Any] | None = None
        """None when nobody waits: the answer is dropped."""

    def fail(self, error: Exception) -> None:
        self.timing.errors += 1
        deferred, self.deferred = self.deferred, None
        if deferred is not None:
            deferred.errback(error)


class Holder(Protocol):
    """Who opened a connection and hears of its fate."""

    def connected(self, conn: Connection) -> None:
        """The connection is open and idle."""

    def idle(self, conn: Connection) -> None:
        """An operation that releases the connection is through."""

    def lost(self, conn: Connection, operation: Operation | None, error: Exception) -> None:
        """The connection could not be opened or has ended; `operation` was under way and is not yet told."""

    def notified(self, channel: str, payload: str) -> None:
        """A NOTIFY came in."""


@implementer(IReadWriteDescriptor)
class Connection:
    """One connection. Idle if `operation` is None; `held` while a transaction owns it between statements."""

    __slots__ = (
        "_cursor",
        "_delivering",
        "_descriptor",
        "_holder",
        "_pending",
        "_pg",
        "_prepared",
        "_reactor",
        "_timeout",
        "_writing",
        "abandoned",
        "closed",
        "held",
        "operation",
    )

    def __init__(self, reactor: Reactor, holder: Holder, dsn: str, connect_timeout: float) -> None:
        """Begin to connect. `holder` hears `connected` or `lost`, never before this returns.

        Raises `psycopg2.Error` if libpq gives up at once (no such socket, say).
        """
        self._reactor = reactor
        self._holder = holder
        self._pg: connection = psycopg2.connect(dsn, async_=1)
        self._cursor: cursor | None = None
        self._prepared: set[str] = set()
        self._pending: Prepared | None = None
        self._writing = False
        self._delivering = False
        """Whether notifications are being handed out, of which none may overtake another."""
        self._descriptor = os.dup(self._pg.fileno())
        self._timeout: DelayedCall | None = reactor.callLater(connect_timeout, self._connect_timed_out)
        self.operation: Operation | None = None
        self.held = False
        self.abandoned: Callable[[Connection], None] | None = None
        """Set when a transaction's work ended with a statement still under way; called once that is through.
        """
        self.closed = False
        reactor.addReader(self)
        self._write(True)

    # --- the reactor's side

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:  # noqa: N802
        return "postgres"

    def doRead(self) -> None:  # noqa: N802
        if self.closed or self._delivering:  # by a callback earlier in the same event; in the midst of one
            return
        try:
            state = self._pg.poll()
        except psycopg2.Error as error:
            self._failed(error)
            return
        if self._cursor is None:
            self._connecting(state)
        elif state == POLL_OK:
            if self._pg.notifies:
                self._deliver_notifications()
            if self.operation is not None:
                self._finished(self.operation)
        elif (state != POLL_READ) != self._writing:
            self._write(state != POLL_READ)

    doWrite = doRead  # noqa: N815

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        """The reactor saw the socket hang up (or is shutting down) before libpq did."""
        if self.closed:
            return
        if self._cursor is None:  # libpq may have further addresses to try, and knows the reason better
            self._reactor.addReader(self)
            self._writing = False
            self.doRead()
        else:
            self._drop(psycopg2.OperationalError(reason.getErrorMessage()))

    def _write(self, wanted: bool) -> None:
        self._writing = wanted
        if wanted:
            self._reactor.addWriter(self)
        else:
            self._reactor.removeWriter(self)

    # --- opening and ending

    def _connecting(self, state: int) -> None:
        if state == POLL_OK:
            if self._timeout is not None:
                self._timeout.cancel()
                self._timeout = None
            self._cursor = self._pg.cursor()
            register_type(_BYTES, self._cursor)
            register_type(_BYTES_ARRAY, self._cursor)
            register_type(_JSON, self._cursor)
            if self._writing:
                self._write(False)
            self._holder.connected(self)
            return
        # libpq may have moved on to another address, on another socket that can even have the old one's
        # number. Our registration is on a duplicate, which keeps the old socket in the reactor until we take
        # it out here.
        current = self._pg.fileno()
        if os.fstat(current).st_ino != os.fstat(self._descriptor).st_ino:
            self._unregister()
            self._descriptor = os.dup(current)
            self._reactor.addReader(self)
            self._writing = False
        if (state != POLL_READ) != self._writing:
            self._write(state != POLL_READ)

    def _connect_timed_out(self) -> None:
        self._timeout = None
        self._drop(psycopg2.OperationalError("timed out connecting to Postgres"))

    def _unregister(self) -> None:
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        os.close(self._descriptor)
        self._descriptor = -1  # its number may soon be another's, whom a late removal must not hit

    def close(self) -> None:
        """End the connection without a word to the holder. Idempotent; a statement under way is not waited
        for.
        """
        if self.closed:
            return
        self.closed = True
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        self._unregister()
        self._pg.close()

    def _drop(self, error: Exception) -> None:
        operation, self.operation = self.operation, None
        self.close()
        self._holder.lost(self, operation, error)

    # --- statements

    def submit(self, operation: Operation) -> bool:
        """Send a statement on the idle connection. Every failure reaches `operation`, none is raised.

        Returns False if nothing was sent: the operation has failed and the connection is as it was.
        """
        if self.operation is not None:
            operation.fail(RuntimeError("a transaction runs one statement at a time"))
            return False
        if self.closed:
            operation.fail(ConnectionLost("the connection was lost earlier in this transaction"))
            return False
        statement = operation.statement
        self.operation = operation
        if type(statement) is Prepared:
            if statement.identifier not in self._prepared:
                self._pending = statement
                return self._send(statement.definition, None)
            return self._send(statement.invocation, operation.params or None)
        return self._send(statement, operation.params or None)

    def _send(self, sql: Any, params: Any) -> bool:
        cursor = self._cursor
        assert cursor is not None
        try:
            cursor.execute(sql, params)
            if len(cursor.query or b"") > _LARGE:
                state = self._pg.poll()
                # An answer already complete here is left to the reactor's next turn only if bytes remain to
                # be read, which can't be relied on, so it is taken now.
                if state == POLL_OK:
                    assert self.operation is not None
                    self._finished(self.operation)
                elif state != POLL_READ and not self._writing:
                    self._write(True)
        except psycopg2.Error as error:
            if self._pg.closed or is_connection_lost(error):
                self._drop(error)
                return True
            return self._not_sent(error)
        except Exception as error:
            return self._not_sent(error)
        return True

    def _not_sent(self, error: Exception) -> bool:
        """The parameters could not be adapted."""
        operation, self.operation = self.operation, None
        assert operation is not None
        operation.fail(translate(error))
        return False

    def _finished(self, operation: Operation) -> None:
        if self._writing:
            self._write(False)
        if self._pending is not None:
            self._prepared.add(self._pending.identifier)
            invocation, self._pending = self._pending.invocation, None
            if not self._send(invocation, operation.params or None):
                self._freed(operation)
            return
        cursor = self._cursor
        assert cursor is not None
        value: Any
        try:
            if operation.shape == COUNT:
                value = cursor.rowcount
                if cursor.statusmessage == "ROLLBACK" and operation.statement == "COMMIT":
                    raise TransactionAborted("a statement failed earlier: rolled back at COMMIT")
            elif operation.shape == ROWS:
                value = cursor.fetchall()
            else:
                value = cursor.fetchone()
        except Exception as error:
            self._answered_with_error(error)
            return
        self.operation = None
        operation.timing.observe(perf_counter() - operation.started)
        deferred, operation.deferred = operation.deferred, None
        # The connection takes its next statement before Python works on this one's answer: Postgres needn't
        # wait.
        self._freed(operation)
        if operation.then is not None:
            operation.then()
        if deferred is not None:
            deferred.callback(value)

    def _failed(self, error: psycopg2.Error) -> None:
        if self._cursor is None or self._pg.closed or self.operation is None or is_connection_lost(error):
            self._drop(error)
        else:
            self._answered_with_error(translate(error))

    def _answered_with_error(self, error: Exception) -> None:
        operation, self.operation = self.operation, None
        assert operation is not None
        self._pending = None
        if self._writing:
            self._write(False)
        self._freed(operation)
        operation.fail(error)

    def _freed(self, operation: Operation) -> None:
        if operation.releases:
            self.held = False
            self._holder.idle(self)
        elif self.abandoned is not None:
            abandoned, self.abandoned = self.abandoned, None
            abandoned(self)

    def _deliver_notifications(self) -> None:
        notifies = self._pg.notifies
        received = notifies[:]
        notifies.clear()
        self._delivering = True
        try:
            for notify in received:
                self._holder.notified(notify.channel, notify.payload)
        finally:
            self._delivering = False


def _to_bytes(value: str | bytes | None, cur: Any) -> bytes | None:
    view = BINARY(value, cur)
    return None if view is None else bytes(view)


def _to_json(value: str | bytes | None, _cur: Any) -> Any:
    return None if value is None else orjson.loads(value)


_BYTES = new_type((17,), "BYTES", _to_bytes)
_BYTES_ARRAY = new_array_type((1001,), "BYTES[]", _BYTES)
_JSON = new_type((114, 3802), "JSON", _to_json)
