# SPDX-License-Identifier: Apache-2.0
"""Reading the keys of a backup, which may be hundreds of thousands, in portions between which the reactor is free.

The database makes the JSON of each portion; here they are put together only. What is more than one portion is held in
memory whole until it is sent, so few such answers are made at a time, one of a user, and no more than can be sent.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import orjson
from twisted.internet.defer import Deferred, DeferredLock, DeferredSemaphore
from twisted.internet.threads import deferToThread

from homeserver.errors import LimitExceeded, NotFound, TooLarge
from storage.key_backups import KeyBackupStore, Place, RoomPortion

MOST_BYTES: Final = 240 * 2**20
"""Of an answer: a response of more would not wait for a client to read it (`homeserver/web/crowding.py`)."""
_MOST_UNSENT: Final = 256 * 2**20
"""Bytes of answers that are made and, for all that is known here, not sent: beyond, no other is begun."""
_SENT_PER_SECOND: Final = 32 * 2**20
"""Bytes, at which these are taken to be compressed and sent."""
_AT_ONCE: Final = 2
_MOST_WAITING: Final = 100
_MOST_OF_ONE: Final = 10
_COME_AGAIN: Final = 5000
"""Milliseconds."""


class LargeReads:
    """Whose turn it is to be given many keys. One per process."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._turns: Any = DeferredSemaphore(_AT_ONCE)
        self._waiting: Counter[str] = Counter()
        self._of: dict[str, Any] = {}
        self._unsent = 0.0
        self._looked = seconds()

    async def make(self, user_id: str, work: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """Make the answer when it is its turn, and no other of this user's is made. Raises LimitExceeded."""
        if self._waiting[user_id] >= _MOST_OF_ONE or self._waiting.total() >= _MOST_WAITING:
            raise LimitExceeded(_COME_AGAIN)
        self._waiting[user_id] += 1
        own = self._of.setdefault(user_id, DeferredLock())
        try:
            found: bytes = await own.run(self._turns.run, lambda: Deferred.fromCoroutine(self._made(work)))
        finally:
            self._waiting[user_id] -= 1
            if not self._waiting[user_id]:
                del self._waiting[user_id], self._of[user_id]
        return found

    async def _made(self, work: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        now = self._seconds()
        self._unsent = max(0.0, self._unsent - _SENT_PER_SECOND * (now - self._looked))
        self._looked = now
        too_many = self._unsent - _MOST_UNSENT
        if too_many > 0:
            raise LimitExceeded(1000 + int(1000 * too_many / _SENT_PER_SECOND))
        answer = await work()
        self._unsent += len(answer)
        return answer


class BackupReader:
    """Encodes the keys of backups."""

    def __init__(self, store: KeyBackupStore) -> None:
        self._store = store
        self._large = LargeReads()

    async def key(self, user_id: str, version: int, room_id: str, session_id: str) -> bytes | None:
        """The key of a session, as JSON."""
        found = await self._store.key(user_id, version, room_id, session_id)
        return None if found is None else found.encode()

    async def keys(self, user_id: str, version: int, room_id: str | None) -> bytes:
        """`{"rooms": …}` of a backup, or `{"sessions": …}` of a room. Raises LimitExceeded, TooLarge, and NotFound if
        the backup goes meanwhile."""
        first, after = await self._store.portion(user_id, version, room_id, None)
        if after is not None:  # one portion is read as it comes
            return await self._large.make(user_id, lambda: self._many(user_id, version, room_id))
        rooms = _Rooms()
        rooms.add(first)
        return rooms.encoded(room_id)

    async def _many(self, user_id: str, version: int, room_id: str | None) -> bytes:
        rooms = _Rooms()
        after: Place | None = None
        while True:
            found, after = await self._store.portion(user_id, version, room_id, after)
            rooms.add(found)
            if after is None:
                break
        if await self._store.get(user_id, version) is None:  # or a part of it would pass for all
            raise NotFound("There is no such backup")
        encoded: bytes = await deferToThread(rooms.encoded, room_id)  # joining so much frees the interpreter
        return encoded


class _Rooms:
    """What an answer is made of; the keys of a room follow each other."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._room: str | None = None

    def add(self, portion: Sequence[RoomPortion]) -> None:
        """Further keys. Raises TooLarge."""
        for each in portion:
            if each.room_id == self._room:
                self._put(b",")
            else:
                if self._room is not None:
                    self._put(b"}},")
                self._put(orjson.dumps(each.room_id) + b':{"sessions":{')
                self._room = each.room_id
            self._put(each.members.encode())

    def encoded(self, room_id: str | None) -> bytes:
        """All of them, or the only one without its name, which stands first."""
        if room_id is not None:
            return b"".join((b'{"sessions":{', *self._parts[1:], b"}}"))
        end = b"}}" if self._room is not None else b""
        return b"".join((b'{"rooms":{', *self._parts, end, b"}}"))

    def _put(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > MOST_BYTES:
            raise TooLarge("There are too many keys for one answer")
        self._parts.append(part)
