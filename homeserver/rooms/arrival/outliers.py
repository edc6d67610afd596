# SPDX-License-Identifier: Apache-2.0
"""Storing the events that come with a join: a room's state and the auth chains below it, thousands at once.

Each is checked against the events it cites and stored as rejected if they do not let it stand. Nothing of it is shown
to anybody, so it is written in portions outside the stream, and what a broken-off join leaves behind does no harm.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import orjson
from pyroaring import BitMap
from twisted.internet.defer import Deferred

from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import RoomVersion
from homeserver.rooms.arrival.judging import Judged, Judging, Standing, create_event_id
from homeserver.rooms.intake.incoming import Incoming
from storage.arrivals import ArrivalStore, KnownEvent
from storage.events import OUTLIER, REJECTED, EventStore
from storage.packing import packed

logger = logging.getLogger(__name__)

PORTION = 500
"""Events judged and written at once: some 20 ms of the reactor, and of a connection."""
ID_PORTION = 5000
MAX_TRIES = 5


class Collision(Exception):
    """Another process stored one of the events at the same moment, elsewhere."""


class Outliers:
    """Stores events of one room after the other. One per process."""

    def __init__(
        self, *, store: ArrivalStore, events: EventStore, pause: Callable[[], Awaitable[None]]
    ) -> None:
        """`pause` lets others have the reactor."""
        self._store = store
        self._events = events
        self._pause = pause

    async def take_in(
        self,
        room: int,
        room_id: str,
        version: RoomVersion,
        events: Sequence[Incoming],
        *,
        visibility: int,
        progress: Callable[[int], None] = lambda _done: None,
    ) -> Mapping[str, Standing]:
        """Judge the events and store them; by id those that are stored now, and what they cite.

        `visibility` is stored with them: the room's history visibility where they are state. An event that was stored
        before keeps the verdict it had. One that cites events nobody has is left out. `progress` hears how many are
        done.
        """
        unique = {incoming.event.event_id: incoming for incoming in events if _storable(incoming.event)}
        for _ in range(MAX_TRIES):
            try:
                return await self._try(
                    room, room_id, version, list(unique.values()), visibility=visibility, progress=progress
                )
            except Collision:
                logger.info("events of %s were stored by another process at the same time; again", room_id)
        raise RuntimeError(f"the events of {room_id} were stored by others again and again")

    async def _try(
        self,
        room: int,
        room_id: str,
        version: RoomVersion,
        events: list[Incoming],
        *,
        visibility: int,
        progress: Callable[[int], None],
    ) -> Mapping[str, Standing]:
        found = await self._known(room_id, version, events)
        known = {event_id: row for event_id, row in found.items() if row.room == room}
        # Where servers choose event ids, one may be another room's: then this event is nobody's.
        events = [e for e in events if e.event.event_id in known or e.event.event_id not in found]
        in_hand = {incoming.event.event_id: incoming.event for incoming in events}
        stand = await self._standings(room_id, version, known, in_hand)
        new = [incoming for incoming in events if incoming.event.event_id not in stand]
        ordinals = {event_id: row.ordinal for event_id, row in known.items() if _unjudged(row)}
        without = [e.event.event_id for e in new if e.event.event_id not in ordinals]
        if without:
            first = await self._store.reserve_ordinals(room, len(without))
            ordinals.update((event_id, first + offset) for offset, event_id in enumerate(without))
        judging = Judging(room_id, version, new, stand, ordinals)
        await self._write_all(room, room_id, judging.run(), visibility, progress)
        return judging.standings

    async def _write_all(
        self,
        room: int,
        room_id: str,
        events: Iterator[Judged],
        visibility: int,
        progress: Callable[[int], None],
    ) -> None:
        """In their order, the next portion being judged while the database writes the one before."""
        done = 0
        writing: Deferred[int] | None = None
        try:
            while portion := list(islice(events, PORTION)):
                if writing is not None:
                    (before, writing) = (writing, None)
                    done += await before
                    progress(done)
                writing = Deferred.fromCoroutine(self._write(room, room_id, portion, visibility))
                await self._pause()
            if writing is not None:
                (before, writing) = (writing, None)
                progress(done + await before)
        finally:
            if writing is not None:
                await writing

    async def _known(
        self, room_id: str, version: RoomVersion, events: Sequence[Incoming]
    ) -> dict[str, KnownEvent]:
        """Of the events and what they cite, those that are stored."""
        wanted = {incoming.event.event_id for incoming in events}
        for incoming in events:
            wanted.update(incoming.event.auth_event_ids)
        create = create_event_id(version, room_id)
        if create is not None:
            wanted.add(create)
        ids = sorted(wanted)
        known: dict[str, KnownEvent] = {}
        for start in range(0, len(ids), ID_PORTION):
            known.update(await self._store.known(ids[start : start + ID_PORTION]))
            await self._pause()
        return known

    async def _standings(
        self,
        room_id: str,
        version: RoomVersion,
        known: Mapping[str, KnownEvent],
        in_hand: Mapping[str, Event],
    ) -> dict[str, Standing]:
        """What is stored and judged, parsed; texts that are not in hand are loaded."""
        judged = {event_id: row for event_id, row in known.items() if not _unjudged(row)}
        # Of an event that is in hand the stored text may be the redacted one, and where servers choose event ids it may
        # be another altogether; with members only their membership counts, which redaction keeps.
        differ = version.chooses_event_ids
        missing = [
            event_id
            for event_id, row in judged.items()
            if differ or event_id not in in_hand or row.type != "m.room.member"
        ]
        texts: dict[str, Event] = {}
        for start in range(0, len(missing), PORTION):
            for stored in (await self._events.by_ids(missing[start : start + PORTION])).values():
                texts[stored.event_id] = Event.from_pdu(orjson.loads(stored.pdu), version, stored.event_id)
            await self._pause()
        found: dict[str, Standing] = {}
        for event_id, row in judged.items():
            event = texts.get(event_id) or in_hand.get(event_id)
            if event is not None and event.room_id == room_id:
                chain = BitMap() if row.auth_chain is None else BitMap.deserialize(row.auth_chain)
                found[event_id] = Standing(event, row.ordinal, chain, bool(row.flags & REJECTED))
        return found

    async def _write(self, room: int, room_id: str, portion: Sequence[Judged], visibility: int) -> int:
        rows = [_row(judged, room_id, visibility) for judged in portion]
        for judged in portion:
            if judged.reason:
                logger.info("rejected %r: %s", judged.incoming.event, judged.reason)
        if await self._store.store(room, rows) != len(rows):
            raise Collision
        return len(rows)


def _unjudged(row: KnownEvent) -> bool:
    """An invite, say, that came without what it cites."""
    return row.flags == OUTLIER and row.auth_chain is None


def _storable(event: Event) -> bool:
    """Whether Postgres can hold what gets columns of its own."""
    texts = (event.event_id, event.type, event.sender, event.state_key or "")
    return not any("\0" in text for text in texts)


def _row(judged: Judged, room_id: str, visibility: int) -> dict[str, Any]:
    event = judged.incoming.event
    return outlier_row(
        judged.incoming,
        judged.standing.ordinal,
        room_id=room_id,
        visibility=visibility,
        flags=OUTLIER | (REJECTED if judged.standing.rejected else 0),
        auth_chain=bytes(judged.standing.chain.serialize()) if event.is_state else None,
    )


def outlier_row(
    incoming: Incoming, ordinal: int, *, room_id: str, visibility: int, flags: int, auth_chain: bytes | None
) -> dict[str, Any]:
    """A row of `events` for an event of unknown place."""
    event = incoming.event
    return {
        "ordinal": ordinal,
        "depth": event.depth,
        "origin_server_ts": event.origin_server_ts,
        "visibility": visibility,
        "flags": flags,
        "event_id": event.event_id,
        "type": event.type,
        "state_key": event.state_key,
        "sender": event.sender,
        "auth_chain": None if auth_chain is None else b64encode(auth_chain).decode(),
        "pdu": packed(
            incoming.json,
            room_id=room_id,
            origin_server_ts=event.origin_server_ts,
            sender=event.sender,
            event_type=event.type,
        ),
    }
