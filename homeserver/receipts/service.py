# SPDX-License-Identifier: Apache-2.0
"""Receipts and read markers (client-server API, "Receipts", "Fully read markers").

Owns who may send which receipt for what, that they only move on, and what a sync tells of them: a private receipt
never leaves its user, and a public one is told to the other servers of the room (`ReceiptsElsewhere`) by the process
where it happened. What receipts do to notification counts is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import Struct
from twisted.internet.defer import Deferred

from homeserver.errors import InvalidParam
from homeserver.events import RoomEvent
from homeserver.needs import Protocol
from homeserver.receipts.content import receipt_content
from homeserver.receipts.recent import RecentReceipts
from homeserver.receipts.threads import HOPS, direct_link, may_bear, next_link
from homeserver.rooms.access import RoomGate
from homeserver.rooms.engine import Room
from storage.events import EventStore, StoredEvent
from storage.receipts import Receipt, ReceiptStore

FULLY_READ = "m.fully_read"
MAX_THREAD_BYTES = 255
TRIES = 100
"""Looks at where a marker is that others move meanwhile: who comes too late does so because another moved it."""

Kind = Literal["m.read", "m.read.private", "m.fully_read"]
KINDS: Final[tuple[Kind, ...]] = ("m.read", "m.read.private", "m.fully_read")


class Committer(Protocol):
    def write(
        self,
        kind: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        users: Sequence[str] = (),
        landed: Callable[[int], Iterable[str]] | None = None,
    ) -> Deferred[int]: ...


class RoomAccountData(Protocol):
    """Where the fully-read marker is kept."""

    async def get(self, user_id: str, event_type: str, room: int) -> dict[str, Any] | None: ...

    async def update_managed(
        self,
        user_id: str,
        room: int,
        event_type: str,
        change: Callable[[Mapping[str, Any] | None], Mapping[str, Any] | None],
    ) -> None:
        """Change an entry by a function of what it is, once more where another writer was first."""
        ...


class ReceiptsElsewhere(Protocol):
    """Other servers in the room, to be told of this server's users."""

    def receipts(self, room: Room, receipts: Sequence[Receipt]) -> None:
        """Public ones that moved on."""
        ...


class NobodyElsewhere:
    """For a server that knows no others."""

    def receipts(self, room: Room, receipts: Sequence[Receipt]) -> None:
        """Nobody is told."""


class Marks(Struct, frozen=True):
    """Receipts and the marker to set together: event ids."""

    read: str | None = None
    private: str | None = None
    fully_read: str | None = None


class Receipts:
    """One per process."""

    def __init__(
        self,
        *,
        store: ReceiptStore,
        recent: RecentReceipts,
        committer: Committer,
        gate: RoomGate,
        events: EventStore,
        account_data: RoomAccountData,
        readers: Callable[[int], Iterable[str]],
        elsewhere: ReceiptsElsewhere,
        now: Callable[[], int],
    ) -> None:
        """`recent` must be subscribed to the stream. `readers` gives, of the users who wait, those in a room (by key);
        `now` the time in milliseconds.
        """
        self._store = store
        self._recent = recent
        self._committer = committer
        self._gate = gate
        self._events = events
        self._account_data = account_data
        self._readers = readers
        self._elsewhere = elsewhere
        self._now = now

    # Sending.

    async def send(
        self, user_id: str, room_id: str, kind: Kind, event_id: str, thread: str | None = None
    ) -> None:
        """Say that the user read up to an event; without effect if they were further already.

        `thread`: None for unthreaded, `main`, or the event id of the thread's root. Raises Forbidden for who is not in
        the room, NotFound for an event they cannot see, InvalidParam for a thread the event is not in.
        """
        if thread is not None:
            _check_thread(kind, thread)
        room = await self._gate.access_joined_room(user_id, room_id)
        entry = await self._visible_event(user_id, room, event_id)
        if thread is not None:
            await self._check_in_thread(room, entry, thread)
        if kind == FULLY_READ:
            await self._move_marker(user_id, room, entry.stored)
        else:
            await self._move(user_id, room, [(kind == "m.read.private", thread or "", entry.stored)])

    async def mark(self, user_id: str, room_id: str, marks: Marks) -> None:
        """Set unthreaded receipts and the marker at once; nothing is set if one of them cannot be. Raises as `send`."""
        room = await self._gate.access_joined_room(user_id, room_id)
        wanted = {
            event_id for event_id in (marks.read, marks.private, marks.fully_read) if event_id is not None
        }
        seen = {event_id: (await self._visible_event(user_id, room, event_id)).stored for event_id in wanted}
        if marks.fully_read is not None:
            await self._move_marker(user_id, room, seen[marks.fully_read])
        moves = [(False, marks.read), (True, marks.private)]
        await self._move(
            user_id, room, [(private, "", seen[id_]) for private, id_ in moves if id_ is not None]
        )

    async def _visible_event(self, user_id: str, room: Room, event_id: str) -> RoomEvent:
        """The event, from memory where a member's sight of it needs no thought. Raises NotFound."""
        member = room.head.members[user_id]
        for entry in reversed(room.recent):
            if entry.stored.event_id == event_id:
                if member.since < entry.stored.position:
                    return entry
                break
        return (await self._gate.access_event(user_id, room.room_id, event_id))[1]

    async def _check_in_thread(self, room: Room, entry: RoomEvent, thread: str) -> None:
        chain = [direct_link(entry.stored.event_id, entry.event.content)]
        for _ in range(HOPS):  # each hop is a query, but only reactions and edits have any
            parent = next_link(chain[-1])
            stored = None if parent is None else (await self._events.by_ids((parent,))).get(parent)
            if stored is None or stored.room != room.key:
                break
            chain.append(direct_link(stored.event_id, self._gate.in_memory(room, stored).event.content))
        if not may_bear(chain, thread):
            raise InvalidParam(f"event_id {entry.stored.event_id} is not related to thread {thread}")

    async def _move(self, user_id: str, room: Room, moves: list[tuple[bool, str, StoredEvent]]) -> None:
        """Move receipts (private, thread, event) on, in one commit."""
        standing = {(r.private, r.thread): r.place for r in await self._store.of_user(user_id, room.key)}
        now = self._now()
        receipts = [
            Receipt(0, room.key, user_id, private, thread, event.event_id, event.position, now)
            for private, thread, event in moves
            if event.position > standing.get((private, thread), event.position - 1)
        ]
        if not receipts:
            return

        def landed(before: int) -> Iterable[str]:
            for position, receipt in enumerate(receipts, before + 1):
                self._remember(receipt._replace(position=position))
            return (user_id,) if all(receipt.private for receipt in receipts) else self._readers(room.key)

        await self._committer.write("receipts", [_row(receipt) for receipt in receipts], landed=landed)
        public = [receipt for receipt in receipts if not receipt.private]
        if public:
            self._elsewhere.receipts(room, public)

    async def receive(self, receipts: Sequence[Receipt]) -> None:
        """Public receipts of users of other servers, checked by `homeserver.receipts.remote`; their positions are none
        yet. One that does not get further than what stands is without effect.
        """
        if not receipts:
            return

        def landed(before: int) -> Iterable[str]:
            woken: set[str] = set()
            for position, receipt in enumerate(receipts, before + 1):
                self._remember(receipt._replace(position=position))
            for room in {receipt.room for receipt in receipts}:
                woken.update(self._readers(room))
            return woken

        await self._committer.write("receipts", [_row(receipt) for receipt in receipts], landed=landed)

    def _remember(self, receipt: Receipt) -> None:
        """Unless a simultaneous one of the same user got further: then this one was not written."""
        newest = self._recent.newest(receipt)
        if newest is None or newest.place < receipt.place:
            self._recent.add(receipt)

    async def _move_marker(self, user_id: str, room: Room, event: StoredEvent) -> None:
        present = _marked(await self._account_data.get(user_id, FULLY_READ, room.key))
        places: dict[str, int] = {}
        for _ in range(TRIES):
            if present is not None:
                stored = (await self._events.by_ids((present,))).get(present)
                places[present] = stored.position if stored is not None and stored.room == room.key else -1
                if places[present] >= event.position:
                    return
            present = await self._put_marker(user_id, room, event, places)
            if present is None:
                return
        raise TimeoutError(f"{FULLY_READ} of {user_id} was moved {TRIES} times by others meanwhile")

    async def _put_marker(
        self, user_id: str, room: Room, event: StoredEvent, places: Mapping[str, int]
    ) -> str | None:
        """Move it to the event unless it is further; or, leaving it, the event it is at where `places` lacks that."""
        lacking: list[str] = []

        def further(content: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
            present = _marked(content)
            lacking[:] = [present] if present is not None and present not in places else []
            if lacking or (present is not None and places[present] >= event.position):
                return content
            return {"event_id": event.event_id}

        await self._account_data.update_managed(user_id, room.key, FULLY_READ, further)
        return lacking[0] if lacking else None

    # Reading.

    async def changed(
        self, user_id: str, rooms: Sequence[int], since: int, upto: int
    ) -> dict[int, dict[str, Any]]:
        """For each room with news in since < position ≤ upto, the content of its `m.receipt` for this user.

        Everything there is for `since` 0. From memory where that reaches back so far, else in one query for all rooms.
        """
        found, unknown = self._recent.since(rooms, since, upto)
        contents = _contents(user_id, found)
        if unknown:
            by_room: dict[int, list[Receipt]] = {}
            for receipt in await self._store.since(unknown, user_id, since, upto):
                by_room.setdefault(receipt.room, []).append(receipt)
            contents.update((room, receipt_content(receipts)) for room, receipts in by_room.items())
        return contents

    def at_once(
        self, user_id: str, rooms: Collection[int], since: int, upto: int
    ) -> dict[int, dict[str, Any]] | None:
        """What `changed` would give; None if memory does not reach back so far."""
        found, unknown = self._recent.since(rooms, since, upto)
        return None if unknown else _contents(user_id, found)


def _contents(user_id: str, found: Mapping[int, Sequence[Receipt]]) -> dict[int, dict[str, Any]]:
    """By room, what the user may see of receipts."""
    contents: dict[int, dict[str, Any]] = {}
    for room, receipts in found.items():
        visible = [r for r in receipts if not r.private or r.user_id == user_id]
        if visible:
            contents[room] = receipt_content(visible)
    return contents


def _marked(content: Mapping[str, Any] | None) -> str | None:
    """The event that a marker is at."""
    present = content.get("event_id") if content is not None else None
    return present if isinstance(present, str) else None


def _check_thread(kind: Kind, thread: str) -> None:
    if kind == FULLY_READ:
        raise InvalidParam("thread_id is not compatible with m.fully_read")
    if not thread or "\0" in thread or len(thread.encode()) > MAX_THREAD_BYTES:
        raise InvalidParam("thread_id must be a non-empty string, `main` or an event id")


def _row(receipt: Receipt) -> dict[str, Any]:
    row = receipt._asdict()
    del row["position"]
    return row
