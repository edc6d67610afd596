# SPDX-License-Identifier: Apache-2.0
"""From the stream to the queues: new events that are to be spread, each offered once, in the order of positions.

What this process wrote, or has in memory, costs no query; what others wrote is read with one for all of it. Goes up to
the position that the process shows, below which nothing can turn up any more. Owns no queue.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from federation.outbound.progress import Progress
from federation.outbound.routing import destinations_of_recent, destinations_of_stored
from federation.outbound.transaction import Pdu
from homeserver.needs import Protocol
from homeserver.rooms.engine import Room
from homeserver.stream.changes import Change
from storage.destinations import shard_of
from storage.outbound import OutboundEvent

logger = logging.getLogger(__name__)

PORTION = 500
"""Events read with one query."""
PAUSE = 1.0
"""Seconds until the next attempt when the database failed."""

Found = tuple[Pdu, Collection[str]]


class Scheduler(Protocol):
    """The reactor's part that is needed here."""

    def callLater(self, delay: float, fn: Callable[..., object], /, *args: object) -> Any: ...  # noqa: N802


class StreamPosition(Protocol):
    @property
    def position(self) -> int: ...


class Rooms(Protocol):
    """Rooms in memory (`homeserver.rooms.engine.RoomCache`)."""

    def peek_key(self, key: int) -> Room | None: ...


class Events(Protocol):
    """What is needed of `storage.outbound.OutboundStore`."""

    async def since(
        self, after: int, upto: int, limit: int, rooms: Sequence[int] | None = None
    ) -> list[OutboundEvent]: ...


class Hosts(Protocol):
    """What is needed of `storage.room_hosts.RoomHostStore`."""

    async def at(self, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], frozenset[str]]: ...


class Queues(Protocol):
    """What is needed of the sender."""

    def serves_any(self) -> bool: ...
    def offer(self, pdu: Pdu, destinations: Iterable[str]) -> None: ...


class Feed:
    """One per process; subscribes to the stream, after the rooms' cache."""

    def __init__(
        self,
        *,
        server_name: str,
        stream: StreamPosition,
        rooms: Rooms,
        events: Events,
        hosts: Hosts,
        queues: Queues,
        progress: Progress,
        scheduler: Scheduler,
    ) -> None:
        self._server_name = server_name
        self._stream = stream
        self._rooms = rooms
        self._events = events
        self._hosts = hosts
        self._queues = queues
        self._progress = progress
        self._scheduler = scheduler
        self._moved: dict[int, int] = {}
        """Rooms with news above `taken`, and the newest position known of each."""
        self._unknown = 0
        """Up to here it is not known which rooms have news."""
        self._joining: list[tuple[dict[int, int], Deferred[Collection[int]]]] = []
        self._call: Any = None
        self._running: Deferred[None] | None = None
        self._stopped = False

    def changed(self, change: Change) -> Iterable[str]:
        """A commit."""
        for key in change.rooms:
            self._moved[key] = max(change.position, self._moved.get(key, 0))
        if change.unknown:
            self._unknown = max(change.position, self._unknown)
        self._soon(0)
        return ()

    def join(self, shards: Mapping[int, int]) -> Deferred[Collection[int]]:
        """Offer to these shards what they are owed: everything since each one's position. Fires when that is done, with
        those that did not leave meanwhile.
        """
        done: Deferred[Collection[int]] = Deferred()
        self._joining.append((dict(shards), done))
        ahead = {shard: position for shard, position in shards.items() if position > self._progress.taken}
        self._progress.ahead.update(ahead)
        self._soon(0)
        return done

    def leave(self, shards: Collection[int]) -> None:
        """These shards are offered nothing more of what they were owed."""
        for places in (self._progress.ahead, *(joining for joining, _ in self._joining)):
            for shard in shards:
                places.pop(shard, None)

    async def stop(self) -> None:
        """Offer nothing more."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._running is not None:
            await self._running
        for _, done in self._joining:
            done.cancel()

    def _soon(self, delay: float) -> None:
        if self._call is None and self._running is None and not self._stopped:
            self._call = self._scheduler.callLater(delay, self._begin)

    def _begin(self) -> None:
        self._call = None
        failed: list[bool] = []

        async def run() -> None:
            try:
                while not self._stopped and (self._joining or self._stream.position > self._progress.taken):
                    await self._replay()
                    await self._take()
            except Exception:
                logger.exception("new events could not be read; they will be")
                failed.append(True)

        def ran(_result: object) -> None:
            self._running = None
            if failed or self._joining or self._stream.position > self._progress.taken:
                self._soon(PAUSE if failed else 0)

        self._running = Deferred.fromCoroutine(run())
        # It may have run to its end already.
        self._running.addCallback(ran)

    async def _take(self) -> None:
        """Offer what is new up to the position shown, or a portion of it."""
        after, upto = self._progress.taken, self._stream.position
        if upto <= after:
            return
        found: list[Found] = []
        if self._queues.serves_any():
            everywhere = self._unknown > after
            unread = [] if everywhere else self._from_memory(after, upto, found)
            if everywhere or unread:
                events = await self._events.since(after, upto, PORTION, None if everywhere else unread)
                if len(events) == PORTION:
                    upto = events[-1].position
                    found = [each for each in found if each[0].position <= upto]
                found += await self._routed(events)
            found.sort(key=lambda each: each[0].position)  # those in memory were looked at room by room
        # Taken over while the news were read: what is older goes first, and these with it (`_replay`). And whom another
        # process served that was further has some of them.
        joining = {shard for shards, _ in self._joining for shard in shards}
        ahead = self._progress.ahead
        for pdu, destinations in found:
            here = destinations
            if joining or ahead:
                here = [
                    name
                    for name in destinations
                    if (shard := shard_of(name)) not in joining and pdu.position > ahead.get(shard, 0)
                ]
            # First: a server that is caught up from now on, for want of memory, needs this one as well.
            self._progress.taken = pdu.position
            self._queues.offer(pdu, here)
        self._progress.taken = upto
        for shard in [shard for shard, position in ahead.items() if position <= upto]:
            del ahead[shard]
        self._moved = {key: position for key, position in self._moved.items() if position > upto}

    def _from_memory(self, after: int, upto: int, found: list[Found]) -> list[int]:
        """Collect the new events of the rooms that are in memory; returns the others."""
        unread = []
        for key in self._moved:
            room = self._rooms.peek_key(key)
            recent = None if room is None else room.recent_since(after)
            if room is None or recent is None or room.unshown > after:
                unread.append(key)
                continue
            if not any(entry.stored.outbound for entry in recent):
                continue
            try:
                routed = destinations_of_recent(
                    recent, room.head.hosts, room.head.partial_servers or (), self._server_name
                )
            except Exception:
                # What is odd about one room must not hold up all others for ever.
                logger.exception("new events of a room could not be routed from memory")
                unread.append(key)
                continue
            for entry, destinations in routed:
                stored = entry.stored
                if after < stored.position <= upto and not stored.flags and destinations:
                    found.append((Pdu(stored.position, stored.event_id, stored.pdu), destinations))
        return unread

    async def _routed(self, events: Sequence[OutboundEvent]) -> list[Found]:
        hosts = await self._hosts.at([(event.room, event.position) for event in events])
        found: list[Found] = []
        for event in events:
            present = hosts.get((event.room, event.position), frozenset())
            destinations = destinations_of_stored(event, present, self._server_name)
            if destinations:
                found.append((Pdu(event.position, event.event_id, event.pdu), destinations))
        return found

    async def _replay(self) -> None:
        """Offer to shards that were taken over what they are owed up to where the feed is."""
        while self._joining:
            shards, done = self._joining[0]
            upto = self._progress.taken
            after = min(shards.values(), default=upto)
            while after < upto:
                events = await self._events.since(after, upto, PORTION)
                for pdu, destinations in await self._routed(events):
                    names = [
                        name
                        for name in destinations
                        if pdu.position > shards.get(shard_of(name), pdu.position)
                    ]
                    self._queues.offer(pdu, names)
                after = events[-1].position if len(events) == PORTION else upto
                for shard, position in shards.items():
                    shards[shard] = max(position, after)
            del self._joining[0]
            done.callback(shards.keys())
