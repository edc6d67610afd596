# SPDX-License-Identifier: Apache-2.0
"""Transactions of other servers (server-server API, "Transactions").

Owns the form of a transaction, its limits, that one of a server is processed at a time and that it is answered alike
however often and wherever it comes. Its events and EDUs are handed on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import orjson
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredLock
from twisted.python.failure import Failure

from homeserver.errors import BadJson, Forbidden, InvalidParam, LimitExceeded
from homeserver.needs import Protocol
from storage.inbound_transactions import InboundTransactionStore

log = logging.getLogger(__name__)

MOST_PDUS: Final = 50
MOST_EDUS: Final = 100
LONGEST_TXN_ID: Final = 255
MOST_AT_ONCE: Final = 64
"""Transactions that are processed at a time by this process: each may hold megabytes."""
MOST_IN_LINE: Final = 32
"""Those that wait for the one before of the same server: they hold as much, and keep nobody else from a place."""
MOST_OF_ORIGIN: Final = 4
"""The same of one server: one is processed, the others are repeats of it or come too early."""
GRASP: Final = 2
"""How many times as many places as are free one address may have: two thirds alone, the fewer the more others have. So
some are left for who has none yet, however many names are made up behind one address."""
LEASE: Final = 120.0
"""Seconds after which another process may take a transaction up whose process was not heard of again."""
BUSY_MS: Final = 2000
_LONGEST_ERROR: Final = 300


class RoomsDoor(Protocol):
    """See `federation.inbound.rooms.InboundRooms`."""

    async def take_in(
        self, origin: str, room_id: str, pdus: Sequence[Mapping[str, Any]]
    ) -> dict[str, str | None]: ...


class EdusDoor(Protocol):
    """See `federation.inbound.edus.EduDispatcher`."""

    async def dispatch(self, origin: str, edus: Sequence[object]) -> None: ...


class InboundTransactions:
    """One per process."""

    def __init__(self, *, store: InboundTransactionStore, rooms: RoomsDoor, edus: EdusDoor) -> None:
        self._store = store
        self._rooms = rooms
        self._edus = edus
        self._turns: dict[str, _Turns] = {}
        self._places = _Places(MOST_AT_ONCE)
        self._line = _Places(MOST_IN_LINE)
        self._in_the_works = 0
        self._under_way: set[Deferred[dict[str, dict[str, str]]]] = set()
        self._ended: list[Deferred[None]] = []
        """Fired when none is in the works any more."""
        self._stopping = False

    async def stop(self) -> None:
        """Give up what is under way, so that it may come again at once, here or elsewhere: who waits is told so."""
        self._stopping = True
        for work in tuple(self._under_way):
            work.cancel()
        if self._in_the_works:
            ended: Deferred[None] = Deferred()
            self._ended.append(ended)
            await ended

    async def receive(self, origin: str, txn_id: str, body: Mapping[str, Any], *, address: str = "") -> bytes:
        """Process a transaction; the answer as JSON: `{"pdus": {event id: {} or {"error": …}}}`.

        `origin` is who signed the request, `address` whom it is counted for. Raises BadJson, InvalidParam, Forbidden,
        and LimitExceeded where too much of that server, of that address, or altogether, is in the works.
        """
        pdus, edus = _parts(origin, txn_id, body)
        async with self._turn(origin, address):
            begun = await self._store.begin(origin, txn_id, LEASE)
            if begun.answer is not None:
                return begun.answer.encode()
            if not begun.fresh:
                raise LimitExceeded(BUSY_MS, "That transaction is being processed")
            try:
                answer = orjson.dumps({"pdus": await self._cancellable(origin, pdus, edus)})
                await self._store.end(origin, txn_id, answer.decode())
            except Exception as error:
                await self._store.forget(origin, txn_id)
                if self._stopping and isinstance(error, CancelledError):
                    raise _going_down() from error
                raise
            return answer

    async def _cancellable(
        self, origin: str, pdus: Sequence[object], edus: Sequence[object]
    ) -> dict[str, dict[str, str]]:
        work = Deferred.fromCoroutine(self._process(origin, pdus, edus))
        self._under_way.add(work)
        try:
            return await work
        finally:
            self._under_way.discard(work)

    @asynccontextmanager
    async def _turn(self, origin: str, address: str) -> AsyncIterator[None]:
        """The server's turn, after those of its transactions that came before, and a place among all."""
        turns = self._turns.setdefault(origin, _Turns())
        if turns.count >= MOST_OF_ORIGIN:
            raise _too_many()
        turns.count += 1
        self._in_the_works += 1
        try:
            if turns.lock.locked:
                with self._line.one(address):
                    await turns.lock.acquire()
            else:
                await turns.lock.acquire()
            try:
                if self._stopping:
                    raise _going_down()
                with self._places.one(address):
                    yield
            finally:
                turns.lock.release()
        finally:
            self._in_the_works -= 1
            turns.count -= 1
            if not turns.count:
                del self._turns[origin]
            if not self._in_the_works:
                ended, self._ended = self._ended, []
                for each in ended:
                    each.callback(None)

    async def _process(
        self, origin: str, pdus: Sequence[object], edus: Sequence[object]
    ) -> dict[str, dict[str, str]]:
        handling = Deferred.fromCoroutine(self._edus.dispatch(origin, edus))
        by_room: dict[str, list[Mapping[str, Any]]] = {}
        for pdu in pdus:
            room_id = pdu.get("room_id") if type(pdu) is dict else None
            if type(room_id) is str and "\0" not in room_id and len(room_id) <= 255:
                assert isinstance(pdu, dict)
                by_room.setdefault(room_id, []).append(pdu)
            else:
                log.info("an event of %s names no room", origin)
        errors: dict[str, str | None] = {}

        async def take_in(room_id: str) -> None:
            for event_id, error in (await self._rooms.take_in(origin, room_id, by_room[room_id])).items():
                # Of two rooms' answers for one id one is about a forgery.
                if error is None or event_id not in errors:
                    errors[event_id] = error

        taking = DeferredList(
            [Deferred.fromCoroutine(take_in(room_id)) for room_id in by_room], consumeErrors=True
        )
        outcomes: list[tuple[bool, object]] = list(await taking)
        failures = [failure for _, failure in outcomes if isinstance(failure, Failure)]
        if any(isinstance(failure.value, CancelledError) for failure in failures):
            handling.addErrback(lambda _failure: None)
            handling.cancel()
            raise CancelledError
        await handling
        for failure in failures:
            failure.raiseException()
        return {
            event_id: {} if error is None else {"error": error[:_LONGEST_ERROR]}
            for event_id, error in errors.items()
        }


def _going_down() -> LimitExceeded:
    return LimitExceeded(BUSY_MS, "This server is being stopped")


def _too_many() -> LimitExceeded:
    return LimitExceeded(BUSY_MS, "Too many transactions are being processed")


class _Places:
    """A number of places, of which no address takes the last."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._of: Counter[str] = Counter()

    @contextmanager
    def one(self, address: str) -> Iterator[None]:
        """Have one, or raise LimitExceeded."""
        if self._of[address] >= GRASP * self._free:
            raise _too_many()
        self._free -= 1
        self._of[address] += 1
        try:
            yield
        finally:
            self._free += 1
            self._of[address] -= 1
            if not self._of[address]:
                del self._of[address]


class _Turns:
    """Transactions of one server, one after another."""

    __slots__ = ("count", "lock")

    def __init__(self) -> None:
        self.count = 0
        self.lock = DeferredLock()


def _parts(origin: str, txn_id: str, body: Mapping[str, Any]) -> tuple[list[object], list[object]]:
    """PDUs and EDUs of a well-formed transaction."""
    if len(txn_id) > LONGEST_TXN_ID:
        raise InvalidParam("The transaction id is too long")
    if type(body.get("origin")) is not str:
        raise BadJson("`origin` must be a string")
    if body["origin"] != origin:
        raise Forbidden("`origin` is not the server that signed the request")
    pdus, edus = body.get("pdus", []), body.get("edus", [])
    if type(pdus) is not list or type(edus) is not list:
        raise BadJson("`pdus` and `edus` must be arrays")
    if len(pdus) > MOST_PDUS:
        raise BadJson(f"A transaction has at most {MOST_PDUS} PDUs")
    if len(edus) > MOST_EDUS:
        raise BadJson(f"A transaction has at most {MOST_EDUS} EDUs")
    return pdus, edus
