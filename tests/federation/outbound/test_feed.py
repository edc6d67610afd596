# SPDX-License-Identifier: Apache-2.0
"""What the feed offers while shards change hands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from federation.outbound.feed import Feed, Found
from federation.outbound.progress import Progress
from federation.outbound.transaction import Pdu
from homeserver.stream.changes import Change
from storage.destinations import shard_of
from storage.outbound import OutboundEvent

A = "a.test"


class _Stream:
    position = 10


class _NoRooms:
    def peek_key(self, _key: int) -> None:
        return None


class _Events:
    """An event at each position, of which a reading waits for the test."""

    def __init__(self) -> None:
        self.held: Deferred[None] | None = None

    async def since(
        self, after: int, upto: int, limit: int, rooms: Sequence[int] | None = None
    ) -> list[OutboundEvent]:
        held, self.held = self.held, None
        if held is not None:
            await held
        return [
            OutboundEvent(position, 1, f"${position}", "m.test", None, "@u:localhost", "{}")
            for position in range(after + 1, upto + 1)
        ]


class _Hosts:
    """A is in every room."""

    async def at(self, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], frozenset[str]]:
        return dict.fromkeys(places, frozenset([A]))


class _Queues:
    """Notes what is offered for A."""

    def __init__(self) -> None:
        self.offered: list[int] = []

    def serves_any(self) -> bool:
        return True

    def offer(self, pdu: Pdu, destinations: Iterable[str]) -> None:
        self.offered += [pdu.position for name in destinations if name == A]


async def test_events_of_several_rooms_in_memory_are_offered_in_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that has no more room for one is caught up to there: what was offered before it must be older."""
    clock, stream, queues = Clock(), _Stream(), _Queues()
    feed = Feed(
        server_name="localhost",
        stream=stream,
        rooms=_NoRooms(),
        events=_Events(),
        hosts=_Hosts(),
        queues=queues,
        progress=Progress(10),
        scheduler=clock,
    )

    def from_memory(_after: int, _upto: int, found: list[Found]) -> list[int]:
        found += [(Pdu(position, f"${position}", "{}"), frozenset([A])) for position in (11, 13, 12)]
        return []

    monkeypatch.setattr(feed, "_from_memory", from_memory)
    stream.position = 13
    feed.changed(Change(before=10, count=3, rooms=(1, 2)))
    clock.advance(0)
    assert queues.offered == [11, 12, 13]
    await feed.stop()


async def test_who_is_taken_over_while_news_are_read_gets_what_is_older_first() -> None:
    """A server that is away when it is offered the newer counts as behind from there: the older would be lost."""
    clock, stream, events, queues = Clock(), _Stream(), _Events(), _Queues()
    progress = Progress(10)
    feed = Feed(
        server_name="localhost",
        stream=stream,
        rooms=_NoRooms(),
        events=events,
        hosts=_Hosts(),
        queues=queues,
        progress=progress,
        scheduler=clock,
    )
    held = events.held = Deferred[None]()
    stream.position = 12
    feed.changed(Change(before=10, count=2, unknown=True))
    clock.advance(0)
    joined = feed.join({shard_of(A): 8})
    held.callback(None)
    clock.advance(0)
    await joined
    assert (queues.offered, progress.taken) == ([9, 10, 11, 12], 12)
    stream.position = 13
    feed.changed(Change(before=12, count=1, unknown=True))
    clock.advance(0)
    assert queues.offered == [9, 10, 11, 12, 13]
    await feed.stop()
