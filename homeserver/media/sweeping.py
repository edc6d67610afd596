# SPDX-License-Identifier: Apache-2.0
"""What becomes of media nobody needs: reservations that lapsed, the oldest of what other servers sent, unnamed files.

Owns when. Several processes may sweep at once without harm. A file that nothing names stays an hour more: an upload
that is just being written down names it in a moment.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread

from homeserver.media.blobs import Blobs
from storage.media import MediaStore

log = logging.getLogger(__name__)

EVERY: Final = 600.0
"""Seconds."""
UNNAMED_FOR: Final = 3600 * 1000
_PORTION: Final = 500


MyTurn = Callable[[float], Awaitable[bool]]


class MediaSweeping:
    """Sweeps from time to time, between `start` and `stop`."""

    def __init__(
        self,
        reactor: Any,
        *,
        store: MediaStore,
        blobs: Blobs,
        remote_cache: int,
        now: Callable[[], int],
        my_turn: MyTurn,
    ) -> None:
        """`remote_cache`: bytes that media of other servers may hold. `my_turn`: whether this process is to sweep for
        the next so many seconds."""
        self._my_turn = my_turn
        self._store = store
        self._blobs = blobs
        self._remote_cache = remote_cache
        self._now = now
        self._loop: LoopingCall = LoopingCall(lambda: Deferred.fromCoroutine(self._round()))
        self._loop.clock = reactor
        self._ended: Deferred[LoopingCall] | None = None

    def start(self) -> None:
        """Begin, some time from now: at the start there is enough to do."""
        self._ended = self._loop.start(EVERY, now=False)

    async def stop(self) -> None:
        """End; a round under way is finished."""
        if self._loop.running:
            self._loop.stop()
        if self._ended is not None:
            await self._ended

    async def sweep(self) -> int:
        """One round; how many files went."""
        now = self._now()
        await self._store.expire(now)
        await self._store.evict(self._remote_cache)
        gone, before = 0, now - UNNAMED_FOR
        while unused := await self._store.unused(before, _PORTION):
            for digest in unused:  # each in a transaction of its own: a file and its row go together
                gone += await self._store.drop(digest, before, partial(self._blobs.remove, digest))
            if len(unused) < _PORTION:
                break
        return gone

    async def _round(self) -> None:
        gone = 0
        try:
            await deferToThread(self._blobs.spools.sweep)  # which are this machine's alone
            if await self._my_turn(0.9 * EVERY):
                gone = await self.sweep()
        except Exception:
            log.exception("sweeping media failed; it is tried again")
        else:
            if gone:
                log.info("media nobody needs is gone", extra={"fields": {"files": gone}})
