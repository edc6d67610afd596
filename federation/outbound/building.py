# SPDX-License-Identifier: Apache-2.0
"""Everything that sends to other servers, built in order, and its life."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from msgspec import Struct

from federation.destinations import Availability
from federation.outbound.delivery import Delivery, Transactions
from federation.outbound.elsewhere import Elsewhere
from federation.outbound.feed import Feed
from federation.outbound.leases import Leases
from federation.outbound.loading import Loader
from federation.outbound.metrics import OutboundMetrics
from federation.outbound.outbox import Outbox
from federation.outbound.progress import Progress
from federation.outbound.sender import Sender
from homeserver.needs import Protocol
from homeserver.rooms.engine import RoomCache
from homeserver.rooms.neighbours import Neighbours
from homeserver.stream import Stream
from storage.database import Database
from storage.destinations import CHANNEL as DESTINATIONS
from storage.destinations import DestinationStore
from storage.outbound import OutboundStore
from storage.outbound_shards import CHANNEL as OUTBOUND
from storage.outbound_shards import ShardStore
from storage.outgoing_edus import OutgoingEduStore
from storage.room_hosts import RoomHostStore

Notify = Callable[[str, Sequence[str]], Awaitable[object]]
"""`notify(channel, payloads)`: tells all processes, this one too."""


class Reactor(Protocol):
    """The reactor's part that is needed here."""

    def callLater(self, delay: float, fn: Callable[..., object], /, *args: object) -> Any: ...  # noqa: N802
    def seconds(self) -> float: ...


class Outbound(Struct, frozen=True, kw_only=True):
    """One per process."""

    database: Database
    availability: Availability
    outbox: Outbox
    elsewhere: Elsewhere
    sender: Sender
    feed: Feed
    leases: Leases

    async def start(self) -> None:
        """Hear the other processes, and begin to send. `availability` must have been started."""
        await self.database.listen(OUTBOUND, self._heard, self.leases.interrupted)
        await self.leases.start()

    async def stop(self) -> None:
        """Let what is under way arrive, for a while, and hand over to the other processes."""
        await self.elsewhere.stop()
        await self.feed.stop()
        await self.leases.stop()

    def _heard(self, payload: str) -> None:
        message = orjson.loads(payload)
        self.outbox.heard(message)
        self.leases.heard(message)


async def start_availability(
    reactor: Reactor, database: Database, *, origin: str, now: Callable[[], int]
) -> Availability:
    """How other servers are, as remembered; to be stopped after all that asks it."""
    availability = Availability(
        origin=origin,
        store=DestinationStore(database, origin),
        scheduler=reactor,
        now=now,
        random=random.random,
    )
    await database.listen(DESTINATIONS, availability.heard, availability.interrupted)
    await availability.start()
    return availability


def build_outbound(
    reactor: Reactor,
    *,
    server_name: str,
    origin: str,
    database: Database,
    stream: Stream,
    cache: RoomCache,
    neighbours: Neighbours,
    transactions: Transactions,
    availability: Availability,
    notify: Notify,
    pause: Callable[[], Awaitable[object]],
    now: Callable[[], int],
    alone: bool,
    most_bytes: int,
) -> Outbound:
    """Build it, and subscribe it to the stream, to which `cache` must be subscribed already. Nothing is sent before
    `start`. `alone`: no other process can use the database. `most_bytes`: see `Sender`.
    """
    metrics = OutboundMetrics()
    edus, events = OutgoingEduStore(database), OutboundStore(database)
    progress = Progress(stream.position)
    sender = Sender(
        availability=availability,
        delivery=Delivery(
            server_name=server_name,
            transactions=transactions,
            standing=availability,
            metrics=metrics,
            now=now,
        ),
        loader=Loader(events=events, edus=edus),
        progress=progress,
        scheduler=reactor,
        now=now,
        most_bytes=most_bytes,
    )
    availability.watch(sender.available)
    metrics.watch(**sender.figures)
    feed = Feed(
        server_name=server_name,
        stream=stream,
        rooms=cache,
        events=events,
        hosts=RoomHostStore(database),
        queues=sender,
        progress=progress,
        scheduler=reactor,
    )
    stream.subscribe(feed)
    outbox = Outbox(
        server_name=server_name,
        origin=origin,
        store=edus,
        queues=sender,
        availability=availability,
        notify=notify,
    )
    leases = Leases(
        store=ShardStore(database, origin),
        destinations=DestinationStore(database, origin),
        edus=edus,
        sender=sender,
        feed=feed,
        clock=reactor,
        alone=alone,
    )
    return Outbound(
        database=database,
        availability=availability,
        outbox=outbox,
        elsewhere=Elsewhere(outbox=outbox, neighbours=neighbours, pause=pause, now=now),
        sender=sender,
        feed=feed,
        leases=leases,
    )
