# SPDX-License-Identifier: Apache-2.0
"""A bounded number of connections, and a bounded first-come-first-served queue in front of them.

Owns opening, replacing and closing connections. An operation that finds no idle connection waits here;
whoever takes a whole connection (a transaction) waits in the same queue.

When Postgres goes away, idle connections notice at once (their sockets are watched), statements under way
fail or are sent again as their `retry` says, and the queue is kept for up to `wait_timeout` while connecting
is tried with growing pauses: a restart of the database is a hiccup, not a failure, for whatever had not been
sent.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

import psycopg2
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from storage.database.connection import Connection, DelayedCall, Operation, Reactor
from storage.database.errors import (
    ConnectionLost,
    DatabaseClosed,
    DatabaseFailure,
    DatabaseOverloaded,
    DatabaseUnavailable,
)
from storage.database.metrics import DatabaseMetrics
from storage.database.settings import PoolSettings


class Lease:
    """A transaction waiting for a connection of its own."""

    __slots__ = ("deferred", "started")

    def __init__(self) -> None:
        self.deferred: Deferred[Connection] = Deferred()
        self.started = perf_counter()


class Pool:
    """Connections to one database. All methods are for the reactor thread."""

    _log = Logger()

    def __init__(
        self,
        reactor: Reactor,
        dsn: str,
        settings: PoolSettings,
        connect_timeout: float,
        metrics: DatabaseMetrics,
    ) -> None:
        self._reactor = reactor
        self._dsn = dsn
        self._settings = settings
        self._connect_timeout = connect_timeout
        self._metrics = metrics
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._opening: set[Connection] = set()
        self._queue: deque[Operation | Lease] = deque()
        self._pause = 0.0
        self._retry: DelayedCall | None = None
        self._sweep: DelayedCall | None = None
        self._last_error: Exception | None = None
        self._closing: Deferred[None] | None = None
        self._force: DelayedCall | None = None
        self._closed = False

    # --- asking for work

    def run(self, operation: Operation) -> Deferred[Any]:
        """Send a single statement on the first free connection.

        Cancelling the Deferred takes the statement out of the queue; one that was sent runs on, its answer
        dropped.
        """
        if self._idle:
            deferred = operation.deferred = (
                Deferred()
            )  # without canceller: Deferred drops a late result by itself
            conn = self._idle.pop()
            if not conn.submit(operation):
                self.idle(conn)
            return deferred
        deferred = operation.deferred = Deferred(lambda cancelled: self._forget(operation))
        self._wait(operation)
        return deferred

    def lease(self) -> Deferred[Connection]:
        """A connection of one's own, until an operation that `releases` or `give_back`."""
        lease = Lease()
        if self._idle:
            conn = self._idle.pop()
            conn.held = True
            lease.deferred.callback(conn)
            return lease.deferred
        lease.deferred = Deferred(lambda cancelled: self._forget(lease))
        self._wait(lease)
        return lease.deferred

    def give_back(self, conn: Connection) -> None:
        """End a lease during which nothing was sent."""
        conn.held = False
        # In a later turn: a queue of transactions that do nothing would otherwise unroll on the stack.
        self._reactor.callLater(0, self.idle, conn)

    def _wait(self, item: Operation | Lease) -> None:
        refused: DatabaseFailure | None = None
        if self._closed or self._closing is not None:
            refused = DatabaseClosed("the database pool is closed")
        elif len(self._queue) >= self._settings.queue_limit:
            refused = DatabaseOverloaded(f"{len(self._queue)} operations wait for the database already")
        if refused is not None:
            _refuse(item, refused)
            return
        self._queue.append(item)
        if self._sweep is None:
            self._sweep = self._reactor.callLater(self._settings.wait_timeout, self._sweep_queue)
        self._grow()

    def _forget(self, item: Operation | Lease) -> None:
        if isinstance(item, Operation):
            item.deferred = None
        try:
            self._queue.remove(item)
        except ValueError:  # sent already
            return

    def _sweep_queue(self) -> None:
        """Fail what has waited too long; since it's first come first served, that is at the queue's head."""
        self._sweep = None
        limit = self._settings.wait_timeout
        now = perf_counter()
        expired: list[Operation | Lease] = []
        while self._queue and now - self._queue[0].started >= limit:
            expired.append(self._queue.popleft())
        if self._queue:
            remaining = max(limit - (now - self._queue[0].started), 0.0)
            self._sweep = self._reactor.callLater(remaining, self._sweep_queue)
        for item in expired:
            error = DatabaseUnavailable(f"no database connection within {limit:g} s")
            error.__cause__ = self._last_error
            _refuse(item, error)

    # --- what connections report

    def connected(self, conn: Connection) -> None:
        self._opening.discard(conn)
        self._open.add(conn)
        self._pause = 0.0
        self._last_error = None
        self.idle(conn)
        self._grow()

    def idle(self, conn: Connection) -> None:
        while self._queue and not conn.closed:
            item = self._queue.popleft()
            if isinstance(item, Lease):
                conn.held = True
                item.deferred.callback(conn)
                return
            if conn.submit(item):
                return
        if conn.closed:
            self._finish_closing()
        elif self._closing is not None:
            self._open.discard(conn)
            conn.close()
            self._finish_closing()
        else:
            self._idle.append(conn)

    def lost(self, conn: Connection, operation: Operation | None, error: Exception) -> None:
        self._last_error = error
        if conn in self._opening:
            self._opening.discard(conn)
            self._connect_later(error)
        else:
            self._open.discard(conn)
            if conn in self._idle:
                self._idle.remove(conn)
            self._metrics.connections_lost += 1
            self._log.warn("a database connection was lost: {error}", error=str(error).strip())
        if operation is not None:
            if operation.retry and operation.deferred is not None and not self._closed:
                operation.retry = False
                self._queue.appendleft(operation)
                if self._sweep is None:
                    self._sweep = self._reactor.callLater(self._settings.wait_timeout, self._sweep_queue)
            else:
                failure = ConnectionLost(str(error).strip())
                failure.__cause__ = error
                operation.fail(failure)
        self._finish_closing()
        self._grow()

    def notified(self, channel: str, payload: str) -> None:
        """Pooled connections don't LISTEN."""

    # --- opening connections

    def _grow(self) -> None:
        """Open as many connections as there are waiting operations to use them, up to the pool's size."""
        if self._retry is not None or self._closed:
            return
        room = self._settings.size - len(self._open) - len(self._opening)
        for _ in range(min(room, len(self._queue) - len(self._opening))):
            try:
                conn = Connection(self._reactor, self, self._dsn, self._connect_timeout)
            except psycopg2.Error as error:
                self._last_error = error
                self._connect_later(error)
                return
            self._opening.add(conn)

    def _connect_later(self, error: Exception) -> None:
        if self._retry is not None or self._closed:
            return
        settings = self._settings
        self._pause = min(max(self._pause * 2, settings.backoff_first), settings.backoff_limit)
        self._log.warn(
            "cannot connect to the database, trying again in {pause:.2g} s: {error}",
            pause=self._pause,
            error=str(error).strip(),
        )
        self._retry = self._reactor.callLater(self._pause, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._grow()

    # --- ending

    def close(self, grace: float) -> Deferred[None]:
        """Let what is under way or queued finish for up to `grace` seconds, then end every connection."""
        if self._closing is None:
            self._closing = Deferred()
            self._force = self._reactor.callLater(grace, self._close_now)
            for conn in self._idle:
                self._open.discard(conn)
                conn.close()
            self._idle.clear()
            self._finish_closing()
        waiter: Deferred[None] = Deferred()
        self._closing.addCallback(lambda result: waiter.callback(None))
        return waiter

    def _finish_closing(self) -> None:
        if self._closing is not None and not self._closed and not self._open and not self._queue:
            self._close_now()

    def _close_now(self) -> None:
        assert self._closing is not None
        self._closed = True
        for call in (self._force, self._retry, self._sweep):
            if call is not None and call.active():
                call.cancel()
        self._retry = self._sweep = None
        while self._queue:
            _refuse(self._queue.popleft(), DatabaseClosed("the database pool is closed"))
        for conn in [*self._open, *self._opening]:
            operation, conn.operation = conn.operation, None
            conn.close()
            if operation is not None:
                operation.fail(ConnectionLost("the database pool was closed before the answer came"))
        self._open.clear()
        self._opening.clear()
        self._idle.clear()
        self._closing.callback(None)

    def oldest_wait(self) -> float:
        """Seconds that the oldest waiting operation has waited for a connection."""
        return perf_counter() - self._queue[0].started if self._queue else 0.0

    def gauges(self) -> dict[str, int]:
        """Figures of the moment: connections open, those idle, and operations waiting."""
        return {
            "connections": len(self._open),
            "connections_idle": len(self._idle),
            "connections_opening": len(self._opening),
            "waiting": len(self._queue),
        }


def _refuse(item: Operation | Lease, error: Exception) -> None:
    if isinstance(item, Operation):
        item.fail(error)
    elif not item.deferred.called:
        item.deferred.errback(error)
