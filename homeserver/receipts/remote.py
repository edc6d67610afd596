# SPDX-License-Identifier: Apache-2.0
"""Receipts of other servers' users: what of them is taken.

The rules are those for this server's own users: whoever reads is joined and may see the event, the event is known here
and of that room, a thread is one that the event is in, and receipts only move on. What breaks them is left out, since
there is nobody to tell. A batch costs a bounded number of queries whatever is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import orjson

from homeserver.needs import Protocol
from homeserver.protocol.visibility import HistoryVisibility
from homeserver.receipts.threads import HOPS, ThreadLink, direct_link, may_bear, next_link
from homeserver.rooms.engine import Room
from storage.events import StoredEvent
from storage.receipts import Receipt

MAX_THREAD_BYTES = 255


class RemoteReceipt(NamedTuple):
    """A receipt as another server tells it. That the user is that server's was checked."""

    room: Room
    user_id: str
    event_id: str
    thread: str | None
    ts: int


class Events(Protocol):
    async def by_ids(self, event_ids: Sequence[str]) -> dict[str, StoredEvent]: ...


class StandingReceipts(Protocol):
    async def public_of(self, readers: Sequence[tuple[int, str]]) -> list[Receipt]: ...


class Takes(Protocol):
    """What is needed of `Receipts`."""

    async def receive(self, receipts: Sequence[Receipt]) -> None: ...


class RemoteReceipts:
    """One per process."""

    def __init__(
        self, *, receipts: Takes, events: Events, store: StandingReceipts, now: Callable[[], int]
    ) -> None:
        """`now` gives the time in milliseconds."""
        self._receipts = receipts
        self._events = events
        self._store = store
        self._now = now

    async def receive(self, told: Sequence[RemoteReceipt]) -> None:
        """Take those that hold."""
        told = [each for each in told if each.room.head.is_joined(each.user_id) and _is_thread(each.thread)]
        stored = await self._events.by_ids(sorted({each.event_id for each in told}))
        told = [each for each in told if _may_read(each, stored.get(each.event_id))]
        told = await self._in_their_threads(told, stored)
        if not told:
            return
        readers = sorted({(each.room.key, each.user_id) for each in told})
        standing = {
            (each.room, each.user_id, each.thread): each.place
            for each in await self._store.public_of(readers)
        }
        now = self._now()
        newest: dict[tuple[int, str, str], Receipt] = {}
        for each in told:
            place, key = stored[each.event_id].position, (each.room.key, each.user_id, each.thread or "")
            if place > standing.get(key, place - 1):
                standing[key] = place
                newest[key] = Receipt(
                    0, *key[:2], False, key[2], each.event_id, place, min(max(each.ts, 0), now)
                )
        await self._receipts.receive(list(newest.values()))

    async def _in_their_threads(
        self, told: Sequence[RemoteReceipt], stored: dict[str, StoredEvent]
    ) -> list[RemoteReceipt]:
        """Without those whose event is not in the thread they name; follows relations for all of them together."""
        chains: dict[str, list[ThreadLink]] = {
            each.event_id: [_link(stored[each.event_id])] for each in told if each.thread is not None
        }
        for _ in range(HOPS):
            parents = {event_id: next_link(chain[-1]) for event_id, chain in chains.items()}
            wanted = sorted({parent for parent in parents.values() if parent is not None})
            found = await self._events.by_ids(wanted) if wanted else {}
            for event_id, parent in parents.items():
                event = None if parent is None else found.get(parent)
                if event is not None and event.room == stored[event_id].room:
                    chains[event_id].append(_link(event))
        return [each for each in told if each.thread is None or may_bear(chains[each.event_id], each.thread)]


def _is_thread(thread: str | None) -> bool:
    return thread is None or (
        bool(thread) and "\0" not in thread and len(thread.encode(errors="replace")) <= MAX_THREAD_BYTES
    )


def _may_read(told: RemoteReceipt, event: StoredEvent | None) -> bool:
    """Whether the event is known, of the room, and one that the user may see."""
    if event is None or event.room != told.room.key or event.flags:
        return False
    visible_to_later_members = event.visibility in (
        HistoryVisibility.WORLD_READABLE,
        HistoryVisibility.SHARED,
    )
    return visible_to_later_members or told.room.head.members[told.user_id].since <= event.position


def _link(event: StoredEvent) -> ThreadLink:
    return direct_link(event.event_id, orjson.loads(event.pdu)["content"])
