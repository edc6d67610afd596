# SPDX-License-Identifier: Apache-2.0
"""Reading states and auth chains for other servers, which may be tens of thousands of events, in portions between which
the reactor is free.

Stored events are given as they are, never encoded anew. Only few such answers are made at once, as each is held in
memory whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

from pyroaring import BitMap
from twisted.internet.defer import Deferred, DeferredSemaphore

from homeserver.errors import LimitExceeded
from homeserver.rooms.engine.snapshots import state_at
from storage.pdus import PduStore
from storage.state import StateStore

PORTION: Final = 1000
"""Events of one query, which are some ten milliseconds' work."""
_AT_ONCE: Final = 4
_MOST_WAITING: Final = 100
_MOST_OF_ONE: Final = 10
_COME_AGAIN: Final = 5000
"""Milliseconds."""

T = TypeVar("T")


class LargeAnswers:
    """Lets few large answers be made at a time, and no server have more than its share of those that wait. One per
    process."""

    def __init__(self) -> None:
        self._turns: Any = DeferredSemaphore(_AT_ONCE)
        self._waiting: Counter[str] = Counter()

    async def make(self, origin: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do the work when it is its turn. Raises LimitExceeded."""
        if self._waiting[origin] >= _MOST_OF_ONE or self._waiting.total() >= _MOST_WAITING:
            raise LimitExceeded(_COME_AGAIN)
        self._waiting[origin] += 1
        try:
            found: T = await self._turns.run(lambda: Deferred.fromCoroutine(work()))
        finally:
            self._waiting[origin] -= 1
            if not self._waiting[origin]:
                del self._waiting[origin]
        return found


class StateReader:
    """Reads the events of one room after the other."""

    def __init__(
        self, *, state: StateStore, pdus: PduStore, breathe: Callable[[], Awaitable[object]]
    ) -> None:
        self._state = state
        self._pdus = pdus
        self._breathe = breathe

    async def state_at(self, room: int, snapshot: int) -> BitMap:
        """The ordinals of a state; the snapshot 0 is the state before the room's first event."""
        return state_at(await self._state.chain(room, snapshot)) if snapshot else BitMap()

    async def events(self, room: int, ordinals: Iterable[int]) -> tuple[list[str], BitMap]:
        """The JSON of the events at those ordinals, and the ordinals of their auth chains united."""
        texts: list[str] = []
        chain = BitMap()
        for portion in _portions(ordinals):
            for pdu in await self._pdus.by_ordinals(room, portion):
                texts.append(pdu.pdu)
                if pdu.auth_chain is not None:
                    chain |= BitMap.deserialize(pdu.auth_chain)
            await self._breathe()
        return texts, chain

    async def ids(self, room: int, ordinals: Iterable[int]) -> tuple[list[str], BitMap]:
        """As `events`, with ids in place of the JSON."""
        found: list[str] = []
        chain = BitMap()
        for portion in _portions(ordinals):
            for each in await self._pdus.ids_by_ordinals(room, portion):
                found.append(each.event_id)
                if each.auth_chain is not None:
                    chain |= BitMap.deserialize(each.auth_chain)
            await self._breathe()
        return found, chain


def _portions(ordinals: Iterable[int]) -> Iterable[list[int]]:
    wanted = list(ordinals)
    return (wanted[start : start + PORTION] for start in range(0, len(wanted), PORTION))


def spliced(*lists: tuple[str, list[str]]) -> bytes:
    """An object whose values are lists of events in their stored JSON."""
    return ("{" + ",".join(f'"{key}":[{",".join(texts)}]' for key, texts in lists) + "}").encode()
