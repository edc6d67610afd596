# SPDX-License-Identifier: Apache-2.0
"""LISTEN on a connection of its own, which comes back by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from storage.database.connection import COUNT, Connection, DelayedCall, Operation, Reactor
from storage.database.errors import DatabaseClosed
from storage.database.metrics import DatabaseMetrics
from storage.database.settings import PoolSettings

_CHANNEL_LIMIT = 63
"""Bytes of an identifier; Postgres would cut off the rest, and its notifications would name a channel nobody knows."""


class _Subscription:
    __slots__ = ("callback", "on_reconnect")

    def __init__(self, callback: Callable[[str], None], on_reconnect: Callable[[], None] | None) -> None:
        self.callback = callback
        self.on_reconnect = on_reconnect


class Listener:
    """All of a process's subscriptions. Connects on the first."""

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
        self._timing = metrics.statement("listen")
        self._subscriptions: dict[str, list[_Subscription]] = {}
        self._waiting: list[Deferred[None]] = []
        self._conn: Connection | None = None
        self._ready = False
        self._stale = False
        """Subscriptions were added that the statement under way doesn't cover."""
        self._interrupted: list[_Subscription] = []
        """Who listened when the connection was lost, and is to be told when it is back."""
        self._pause = 0.0
        self._retry: DelayedCall | None = None
        self._closed = False

    def listen(
        self, channel: str, callback: Callable[[str], None], on_reconnect: Callable[[], None] | None
    ) -> Deferred[None]:
        """Fires once Postgres listens on the channel."""
        if len(channel.encode()) > _CHANNEL_LIMIT:
            raise ValueError(f"channel names have at most {_CHANNEL_LIMIT} bytes")
        deferred: Deferred[None] = Deferred(self._forget)
        if self._closed:
            deferred.errback(DatabaseClosed("the database pool is closed"))
            return deferred
        self._subscriptions.setdefault(channel, []).append(_Subscription(callback, on_reconnect))
        self._waiting.append(deferred)
        if self._conn is None and self._retry is None:
            self._connect()
        elif self._ready:
            self._subscribe()
        return deferred

    def interrupted(self) -> None:
        """Notifications may have been missed, though the connection stands: tell all who would be told otherwise."""
        for subscriptions in tuple(self._subscriptions.values()):
            for subscription in tuple(subscriptions):
                if subscription.on_reconnect is not None:
                    self._call(subscription.on_reconnect)

    def hear(self) -> None:
        """Hand out what has arrived already. Does nothing while it is being handed out."""
        if self._ready and self._conn is not None and self._conn.operation is None:
            self._conn.doRead()

    def _forget(self, cancelled: Deferred[None]) -> None:
        if cancelled in self._waiting:
            self._waiting.remove(cancelled)

    def close(self) -> None:
        """End the connection. Callbacks are not called any more."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._conn is not None:
            self._conn.close()
            self._conn = None
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.errback(DatabaseClosed("the database pool is closed"))

    def _connect(self) -> None:
        self._retry = None
        try:
            self._conn = Connection(self._reactor, self, self._dsn, self._connect_timeout)
        except psycopg2.Error as error:
            self._again(str(error))

    def _again(self, reason: str) -> None:
        if self._ready:
            known = set(map(id, self._interrupted))
            self._interrupted += [
                subscription
                for subscriptions in self._subscriptions.values()
                for subscription in subscriptions
                if id(subscription) not in known
            ]
        self._conn = None
        self._ready = False
        settings = self._settings
        self._pause = min(max(self._pause * 2, settings.backoff_first), settings.backoff_limit)
        self._log.warn("not listening to the database: {error}", error=reason.strip())
        self._retry = self._reactor.callLater(self._pause, self._connect)

    def _subscribe(self) -> None:
        """One statement for every channel: listening twice does no harm, and a few names cost nothing."""
        conn = self._conn
        assert conn is not None
        if conn.operation is not None:
            self._stale = True
            return
        waiting = self._waiting[:]
        statement = "; ".join(f"LISTEN {_quoted(channel)}" for channel in self._subscriptions)
        operation = Operation(statement, (), COUNT, self._timing, then=lambda: self._listening(waiting))
        operation.deferred = Deferred()
        operation.deferred.addErrback(self._refused, conn)
        conn.submit(operation)

    def _refused(self, failure: Failure, conn: Connection) -> None:
        """Postgres did not do as told (a timeout, say): start over."""
        if conn is self._conn:
            conn.close()
            self._again(failure.getErrorMessage())

    def _listening(self, served: list[Deferred[None]]) -> None:
        self._pause = 0.0
        interrupted, self._interrupted = self._interrupted, []
        for deferred in served:
            if deferred in self._waiting:
                self._waiting.remove(deferred)
                deferred.callback(None)
        for subscription in interrupted:
            if subscription.on_reconnect is not None:
                self._call(subscription.on_reconnect)
        if self._stale and self._conn is not None:
            self._stale = False
            self._subscribe()

    # --- what the connection reports

    def connected(self, conn: Connection) -> None:
        self._ready = True
        self._subscribe()

    def idle(self, conn: Connection) -> None:
        """The next statement, if any, follows from `_listening`."""

    def lost(self, conn: Connection, operation: Operation | None, error: Exception) -> None:
        self._again(str(error))

    def notified(self, channel: str, payload: str) -> None:
        for subscription in self._subscriptions.get(channel, ()):
            self._call(subscription.callback, payload)

    def _call(self, fn: Callable[..., None], *args: Any) -> None:
        try:
            fn(*args)
        except Exception:
            self._log.failure("a database listener failed")


def _quoted(channel: str) -> str:
    return '"' + channel.replace('"', '""') + '"'
