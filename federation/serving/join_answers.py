# SPDX-License-Identifier: Apache-2.0
"""The answer to a join: the room's state before it and the auth chains below, which may be tens of thousands of events.

Stored events are spliced as they are; auth chains are united as bitmaps. Events are read in portions between which the
reactor is free, and only few answers are made at once, since each is held in memory whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from heapq import nsmallest
from typing import Any, Final

import orjson
from pyroaring import BitMap
from twisted.internet.defer import Deferred, DeferredSemaphore

from homeserver.rooms.engine import Room
from homeserver.rooms.engine.snapshots import state_at
from homeserver.rooms.intake.incoming import Incoming
from storage.events import EventStore
from storage.pdus import PduStore, StoredPdu
from storage.state import StateStore

PORTION: Final = 1000
"""Events of one query, which are some ten milliseconds' work."""
_AT_ONCE: Final = 4
_HEROES: Final = 5


class JoinAnswers:
    """One per process."""

    def __init__(self, *, server_name: str, events: EventStore, state: StateStore, pdus: PduStore) -> None:
        self._server_name = server_name
        self._events = events
        self._state = state
        self._pdus = pdus
        self._turns: Any = DeferredSemaphore(_AT_ONCE)

    async def answer(
        self, room: Room, join: Incoming, *, servers: Collection[str], omit_members: bool
    ) -> bytes:
        """The JSON for a join that stands in the room. `servers` were in the room before it.

        With `omit_members`, member events that the joining server can do without for now are left out, and auth events
        that are in the state are not repeated (MSC3706).
        """
        found: bytes = await self._turns.run(
            lambda: Deferred.fromCoroutine(self._answer(room, join, servers, omit_members))
        )
        return found

    async def _answer(
        self, room: Room, join: Incoming, servers: Collection[str], omit_members: bool
    ) -> bytes:
        stored = (await self._events.by_ids((join.event.event_id,)))[join.event.event_id]
        state = BitMap()
        if stored.snapshot:
            state = state_at(await self._state.chain(room.key, stored.snapshot))
        chain = BitMap() if stored.auth_chain is None else BitMap.deserialize(stored.auth_chain)
        given, events = BitMap(), []
        named = False
        async for pdu in self._read(room, state, () if omit_members else None):
            given.add(pdu.ordinal)
            chain |= _chain_of(pdu)
            events.append(pdu.pdu)
            named = named or _names_the_room(pdu)
        if omit_members and not named:
            heroes = _heroes(room, state, but=join.event.sender)
            async for pdu in self._read(room, heroes, None):
                given.add(pdu.ordinal)
                chain |= _chain_of(pdu)
                events.append(pdu.pdu)
        if omit_members:
            chain -= given
        auth_chain = [pdu.pdu async for pdu in self._read(room, chain, None)]
        body: list[tuple[str, str]] = [
            ("auth_chain", _array(auth_chain)),
            ("event", join.json),
            ("members_omitted", "true" if omit_members else "false"),
            ("origin", orjson.dumps(self._server_name).decode()),
            ("state", _array(events)),
        ]
        if omit_members:
            body.append(("servers_in_room", orjson.dumps(sorted(servers)).decode()))
        return ("{" + ",".join(f'"{key}":{value}' for key, value in body) + "}").encode()

    async def _read(
        self, room: Room, ordinals: Iterable[int], members: Collection[str] | None
    ) -> AsyncIterator[StoredPdu]:
        wanted = list(ordinals)
        for start in range(0, len(wanted), PORTION):
            for pdu in await self._pdus.by_ordinals(room.key, wanted[start : start + PORTION], members):
                yield pdu


def _chain_of(pdu: StoredPdu) -> BitMap:
    return BitMap() if pdu.auth_chain is None else BitMap.deserialize(pdu.auth_chain)


def _array(texts: list[str]) -> str:
    return "[" + ",".join(texts) + "]"


def _names_the_room(pdu: StoredPdu) -> bool:
    """Whether clients can call the room something without looking at its members."""
    key = {"m.room.name": "name", "m.room.canonical_alias": "alias"}.get(pdu.type)
    if key is None or pdu.state_key != "":
        return False
    value = orjson.loads(pdu.pdu)["content"].get(key)
    return isinstance(value, str) and value != ""


def _heroes(room: Room, state: BitMap, but: str) -> list[int]:
    """Ordinals of the member events by which clients would name the room: those longest in it, joined or invited."""
    members = (
        (member.since, member.ordinal)
        for user_id, member in room.head.members.items()
        if user_id != but and member.membership in ("join", "invite") and member.ordinal in state
    )
    return [ordinal for _, ordinal in nsmallest(_HEROES, members)]
