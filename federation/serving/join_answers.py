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

from homeserver.rooms.engine import RoomHead
from homeserver.rooms.engine.snapshots import state_at
from homeserver.rooms.intake.incoming import Incoming
from storage.events import EventStore
from storage.pdus import PduStore, StoredPdu
from storage.state import StateStore

PORTION: Final = 500
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
        self, head: RoomHead, join: Incoming, *, servers: Collection[str], omit_members: bool
    ) -> bytes:
        """The JSON for a join that stands in the room. `head` is the room as it was when the join came, or later;
        `servers` were in it before.

        With `omit_members`, member events that the joining server can do without for now are left out, and auth events
        that are in the state are not repeated (MSC3706).
        """
        found: bytes = await self._turns.run(
            lambda: Deferred.fromCoroutine(self._answer(head, join, servers, omit_members))
        )
        return found

    async def _answer(
        self, head: RoomHead, join: Incoming, servers: Collection[str], omit_members: bool
    ) -> bytes:
        stored = (await self._events.by_ids((join.event.event_id,)))[join.event.event_id]
        state = BitMap()
        if stored.snapshot:
            state = state_at(await self._state.chain(head.room, stored.snapshot))
        chain = BitMap() if stored.auth_chain is None else BitMap.deserialize(stored.auth_chain)
        given, events, named = BitMap(), list[bytes](), False
        wanted = state - _present_members(head) if omit_members else state
        async for pdu in self._read(head.room, wanted, () if omit_members else None):
            named = named or _names_the_room(pdu)
            _give(pdu, given, chain, events)
        if omit_members and not named:
            async for pdu in self._read(head.room, _heroes(head, state, but=join.event.sender), None):
                _give(pdu, given, chain, events)
        if omit_members:
            chain -= given
        auth_chain = [pdu.pdu.encode() async for pdu in self._read(head.room, chain, None)]
        body = {
            b"auth_chain": _array(auth_chain),
            b"event": join.json.encode(),
            b"members_omitted": b"true" if omit_members else b"false",
            b"origin": orjson.dumps(self._server_name),
            b"state": _array(events),
        }
        if omit_members:
            body[b"servers_in_room"] = orjson.dumps(sorted(servers))
        return b"{" + b",".join(b'"%b":%b' % part for part in body.items()) + b"}"

    async def _read(
        self, room: int, ordinals: Iterable[int], members: Collection[str] | None
    ) -> AsyncIterator[StoredPdu]:
        wanted = list(ordinals)
        for start in range(0, len(wanted), PORTION):
            for pdu in await self._pdus.by_ordinals(room, wanted[start : start + PORTION], members):
                yield pdu


def _give(pdu: StoredPdu, given: BitMap, chain: BitMap, events: list[bytes]) -> None:
    """Put an event of the state into the answer, and what authorizes it into the chain."""
    given.add(pdu.ordinal)
    if pdu.auth_chain is not None:
        chain |= BitMap.deserialize(pdu.auth_chain)
    events.append(pdu.pdu.encode())


def _present_members(head: RoomHead) -> BitMap:
    """Ordinals of which it is known without looking that they are member events."""
    return BitMap(member.ordinal for member in head.members.values())


def _array(events: list[bytes]) -> bytes:
    return b"[" + b",".join(events) + b"]"


def _names_the_room(pdu: StoredPdu) -> bool:
    """Whether clients can call the room something without looking at its members."""
    key = {"m.room.name": "name", "m.room.canonical_alias": "alias"}.get(pdu.type)
    if key is None or pdu.state_key != "":
        return False
    value = orjson.loads(pdu.pdu)["content"].get(key)
    return isinstance(value, str) and value != ""


def _heroes(head: RoomHead, state: BitMap, but: str) -> list[int]:
    """Ordinals of the member events by which clients would name the room: those longest in it, joined or invited."""
    members = (
        (member.since, member.ordinal)
        for user_id, member in head.members.items()
        if user_id != but and member.membership in ("join", "invite") and member.ordinal in state
    )
    return [ordinal for _, ordinal in nsmallest(_HEROES, members)]
