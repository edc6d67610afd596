# SPDX-License-Identifier: Apache-2.0
"""How many connections there are, and who gets the next one.

Owns the connections between requests and the places of those in use: so many in total, so many per destination, the
rest waits in order of arrival, and of those who wait there are not arbitrarily many either. A destination is the target
together with the address policy it was judged by. Connections nobody uses go after a while, the longest unused first
when others need their place.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

from msgspec import Struct, field
from twisted.internet.defer import Deferred

from homeserver.outgoing.address_policy import AddressPolicy
from homeserver.outgoing.connecting import Connecting
from homeserver.outgoing.connection import HttpConnection
from homeserver.outgoing.errors import ConnectionBroken, Overloaded
from homeserver.outgoing.targets import Target


class PoolLimits(Struct, frozen=True, kw_only=True):
    """Connections and seconds."""

    total: int = 512
    per_destination: int = 8
    waiting_per_destination: int = 256
    waiting: int = 4096
    idle_per_destination: int = 2
    idle_seconds: float = 60.0
    longest_life: float = 900.0
    """Seconds after which a connection is not used again, so that a name's new address is noticed."""


class Destination(Struct, frozen=True):
    """What connections are alike in. The `Host` header is no part of it: it is each request's own."""

    host: str
    port: int
    tls_name: str | None
    policy: AddressPolicy

    @classmethod
    def of(cls, target: Target, policy: AddressPolicy) -> Destination:
        """The destination of a target."""
        return cls(target.host, target.port, target.tls_name, policy)


class _Place(Struct):
    """The state of one destination."""

    taken: int = 0
    """Connections in use, being made, or idle."""
    idle: list[HttpConnection] = field(default_factory=list)
    waiting: deque[Deferred[HttpConnection | None]] = field(default_factory=deque)


class ConnectionPool:
    """Connections, made when needed and used again. `close` it at the end."""

    def __init__(self, clock: Any, connector: Connecting, limits: PoolLimits) -> None:
        self._clock = clock
        self._connector = connector
        self._limits = limits
        self._places: dict[Destination, _Place] = {}
        self._taken = 0
        self._waiting = 0
        # Idle connections, the longest unused first, with the time they go.
        self._idle: OrderedDict[HttpConnection, tuple[Destination, float]] = OrderedDict()
        # Destinations that wait for nothing but the total.
        self._starved: OrderedDict[Destination, None] = OrderedDict()
        self._timer: Any = None
        self._closed = False

    @property
    def figures(self) -> dict[str, int]:
        """Connections there are, idle ones among them, and requests that wait for one."""
        return {"open": self._taken, "idle": len(self._idle), "waiting": self._waiting}

    async def take(self, target: Target, policy: AddressPolicy, *, fresh: bool = False) -> HttpConnection:
        """A connection for one exchange; give it back with `give_back`, whatever happened.

        `fresh` asks for a new one. Raises OutgoingError. Cancelling gives the place up.
        """
        destination = Destination.of(target, policy)
        connection = await self._place_for(destination, fresh)
        if connection is not None:
            return connection
        try:
            connection = await self._connector.connect(target, policy, destination)
        except BaseException:
            self._free(destination)
            raise
        connection.gone = lambda: self._gone(connection, destination)
        if not connection.open:  # it ended between two turns
            connection.gone = None
            self._free(destination)
            raise ConnectionBroken("the connection ended at once", answered=False)
        return connection

    def give_back(self, connection: HttpConnection, target: Target, policy: AddressPolicy) -> None:
        """The exchange is over."""
        destination = Destination.of(target, policy)
        if not connection.open:
            return  # `gone` has freed its place or will
        now = self._clock.seconds()
        if not connection.reusable or self._closed or now > connection.made_at + self._limits.longest_life:
            connection.abort()
            return
        place = self._places[destination]
        waiter = self._next_waiter(place)
        if waiter is not None:
            waiter.callback(connection)
            return
        if self._starved or len(place.idle) >= self._limits.idle_per_destination:
            connection.abort()
            return
        self._rest(connection, destination, place, now)

    def close(self) -> None:
        """End every idle connection; those in use end with their exchange."""
        self._closed = True
        for connection in list(self._idle):
            connection.abort()

    async def _place_for(self, destination: Destination, fresh: bool) -> HttpConnection | None:
        """An idle connection, or None when one more may be made, now or after waiting. Raises Overloaded."""
        if self._closed:
            raise Overloaded("the server is stopping")
        place = self._places.setdefault(destination, _Place())
        while place.idle:
            connection = self._leave_idleness(place.idle[-1])
            if connection.open and not fresh:
                return connection
            connection.abort()
        if place.taken < self._limits.per_destination and self._make_room():
            place.taken += 1
            self._taken += 1
            return None
        return await self._wait(destination, place)

    async def _wait(self, destination: Destination, place: _Place) -> HttpConnection | None:
        limits = self._limits
        if len(place.waiting) >= limits.waiting_per_destination or self._waiting >= limits.waiting:
            self._tidy(destination, place)
            raise Overloaded(f"too many requests wait for a connection to {destination.host}")
        waiter: Deferred[HttpConnection | None] = Deferred(
            lambda _: self._give_up(destination, place, waiter)
        )
        place.waiting.append(waiter)
        self._waiting += 1
        if place.taken < limits.per_destination:
            self._starved[destination] = None
        return await waiter

    def _give_up(
        self, destination: Destination, place: _Place, waiter: Deferred[HttpConnection | None]
    ) -> None:
        place.waiting.remove(waiter)
        self._waiting -= 1
        self._tidy(destination, place)

    def _make_room(self) -> bool:
        """Whether one more connection may be made, if need be for an idle one."""
        if self._taken < self._limits.total:
            return True
        if not self._idle:
            return False
        oldest = next(iter(self._idle))
        destination = self._idle[oldest][0]
        self._leave_idleness(oldest)
        oldest.gone = None
        oldest.abort()
        self._free(destination, for_others=False)
        return True

    def _next_waiter(self, place: _Place) -> Deferred[HttpConnection | None] | None:
        if not place.waiting:
            return None
        self._waiting -= 1
        return place.waiting.popleft()

    def _gone(self, connection: HttpConnection, destination: Destination) -> None:
        if connection in self._idle:
            self._leave_idleness(connection)
        self._free(destination)

    def _free(self, destination: Destination, *, for_others: bool = True) -> None:
        """A place is free: for who waits for this destination, else for who waits for any."""
        place = self._places[destination]
        place.taken -= 1
        self._taken -= 1
        if for_others:
            self._pass_on(destination, place)
        self._tidy(destination, place)

    def _pass_on(self, destination: Destination, place: _Place) -> None:
        waiter = self._next_waiter(place)
        while waiter is None and self._starved:
            # Everybody in turn: whoever still waits afterwards is put last.
            destination, _ = self._starved.popitem(last=False)
            place = self._places[destination]
            waiter = self._next_waiter(place)
            if place.waiting:
                self._starved[destination] = None
        if waiter is not None:
            place.taken += 1
            self._taken += 1
            self._tidy(destination, place)
            waiter.callback(None)

    def _tidy(self, destination: Destination, place: _Place) -> None:
        if not place.waiting or place.taken >= self._limits.per_destination:
            self._starved.pop(destination, None)
        if not place.waiting and place.taken == 0:
            self._places.pop(destination, None)

    # Idle connections.

    def _rest(self, connection: HttpConnection, destination: Destination, place: _Place, now: float) -> None:
        seconds = self._limits.idle_seconds
        if connection.idle_seconds is not None:
            seconds = min(seconds, connection.idle_seconds)
        if seconds <= 0:
            connection.abort()
            return
        place.idle.append(connection)
        self._idle[connection] = (destination, now + seconds)
        if self._timer is None:
            self._timer = self._clock.callLater(seconds, self._sweep)

    def _leave_idleness(self, connection: HttpConnection) -> HttpConnection:
        destination, _ = self._idle.pop(connection)
        self._places[destination].idle.remove(connection)
        if not self._idle and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return connection

    def _sweep(self) -> None:
        """End what was idle for long enough, and look again when the next one is due."""
        self._timer = None
        now = self._clock.seconds()
        due = [connection for connection, (_, end) in self._idle.items() if end <= now]
        for connection in due:
            connection.abort()
        ends = [end for connection, (_, end) in self._idle.items() if connection.open]
        if ends:
            self._timer = self._clock.callLater(max(0.1, min(ends) - now), self._sweep)
