# SPDX-License-Identifier: Apache-2.0
"""Which servers this process sends to: shards of them, held by leases that lapse with the process.

Every few seconds one transaction keeps the books (up to where each shard's servers have everything, and who is behind)
and renews the leases. Processes on one database share the shards evenly; one that stops gives its own back at once, one
that dies loses them after `LEASE`. While it is uncertain whether a lease still holds, nothing is sent. Who stood still
and lost shards forgets what it knew of their servers, and takes them over anew if they are free.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from homeserver.needs import Protocol
from storage.destinations import Behind, shard_of
from storage.outbound_shards import Held

logger = logging.getLogger(__name__)

LEASE = 15
"""Seconds."""
MARGIN = 3.0
"""Seconds before its end from which a lease is not relied on."""
RENEW = 5.0
LOOK = 60.0
"""Seconds between two looks for units that are kept and of which nobody told: who kept them may have died."""
STOP_WAIT = 5.0
"""Seconds that transactions under way get to finish when the process stops."""

Books = tuple[dict[int, int], list[tuple[str, int | None]]]


class Clock(Protocol):
    """The reactor's part that is needed here."""

    def callLater(self, delay: float, fn: Callable[..., object], /, *args: object) -> Any: ...  # noqa: N802
    def seconds(self) -> float: ...


class Shards(Protocol):
    """What is needed of `storage.outbound_shards.ShardStore`."""

    async def hold(
        self,
        seconds: int,
        marks: Mapping[int, int],
        behind: Sequence[tuple[str, int | None]] = (),
        *,
        alone: bool = False,
    ) -> Held: ...

    async def let_go(
        self,
        marks: Mapping[int, int],
        behind: Sequence[tuple[str, int | None]] = (),
        *,
        leave: bool = False,
    ) -> None: ...


class BehindServers(Protocol):
    """What is needed of `storage.destinations.DestinationStore`."""

    async def behind(self, shards: Sequence[int]) -> list[Behind]: ...


class WaitingServers(Protocol):
    """What is needed of `storage.outgoing_edus.OutgoingEduStore`."""

    async def waiting(self) -> set[str]: ...


class Serving(Protocol):
    """What is needed of the sender."""

    def serve(self, shards: Collection[int]) -> None: ...
    def drop(self, shards: Collection[int]) -> None: ...
    def go_on(self, seconds: float) -> None: ...
    def behind(self, destinations: Iterable[tuple[str, int]]) -> None: ...
    def kept(self, destinations: Iterable[str]) -> None: ...
    def is_sending(self, shard: int) -> bool: ...
    def wait_sent(self, shard: int) -> Deferred[None]: ...
    def books(self, shards: Collection[int]) -> Books: ...
    def booked(self, told: Iterable[tuple[str, int | None]]) -> None: ...
    def stop(self) -> None: ...
    def wait_idle(self) -> Deferred[None]: ...


class Joining(Protocol):
    """What is needed of the feed."""

    def join(self, shards: Mapping[int, int]) -> Deferred[Collection[int]]: ...
    def leave(self, shards: Collection[int]) -> None: ...


class Leases:
    """One per process."""

    def __init__(
        self,
        *,
        store: Shards,
        destinations: BehindServers,
        edus: WaitingServers,
        sender: Serving,
        feed: Joining,
        clock: Clock,
        alone: bool,
    ) -> None:
        """`alone`: no other process can use the database (it is this one's own), so that what the leases of one that
        died say need not be waited for.
        """
        self._store = store
        self._destinations = destinations
        self._edus = edus
        self._sender = sender
        self._feed = feed
        self._clock = clock
        self._alone = alone
        self._held: set[int] = set()
        """Served here, and offered everything."""
        self._joining: dict[int, int] = {}
        """Taken over, and still to be offered what they are owed from a position on."""
        self._leaving: dict[int, int] = {}
        """Served no more, and given back once nothing is under way to them; with their marks."""
        self._left_behind: list[tuple[str, int | None]] = []
        """What the database is to be told of the servers of those."""
        self._look_due = False
        """Units may be kept that were told to nobody who serves their servers."""
        self._looked_at = 0.0
        self._renew_call: Any = None
        self._renewing: Deferred[None] | None = None
        self._again = False
        self._stopped = False

    async def start(self) -> None:
        """Take what is free, and go on doing so."""
        self._renewing = first = Deferred.fromCoroutine(self._renew())
        try:
            await first
        finally:
            self._renewing = None
        self._schedule(0 if self._again else RENEW)

    def heard(self, payload: Mapping[str, Any]) -> None:
        """A message of the channel `outbound`: shards may have become free."""
        if payload.get("free"):
            self._renew_soon()

    def interrupted(self) -> None:
        """Messages of the channel may have been missed."""
        self._look_due = True
        self._renew_soon()

    async def stop(self) -> None:
        """Give everything back."""
        self._stopped = True
        if self._renew_call is not None and self._renew_call.active():
            self._renew_call.cancel()
        if self._renewing is not None:
            await self._renewing
        self._sender.stop()
        idle = self._sender.wait_idle()
        await idle.addTimeout(STOP_WAIT, self._clock).addErrback(lambda _failure: None)  # type: ignore[arg-type]
        marks, told = self._sender.books(self._held)
        try:
            await self._store.let_go(
                {**marks, **self._joining, **self._leaving}, [*self._left_behind, *told], leave=True
            )
        except Exception:
            logger.warning(
                "shards of destinations were not given back; their leases will lapse", exc_info=True
            )

    # The rhythm.

    def _schedule(self, delay: float) -> None:
        if self._stopped or self._renewing is not None:
            return
        if self._renew_call is not None and self._renew_call.active():
            if delay:
                return
            self._renew_call.cancel()
        self._renew_call = self._clock.callLater(delay, self._begin)

    def _renew_soon(self, _result: object = None) -> None:
        if not self._stopped:
            self._again = True
            self._schedule(0)

    def _begin(self) -> None:
        self._again = False
        renewing = self._renewing = Deferred.fromCoroutine(self._renew())

        def renewed(_result: object) -> None:
            self._renewing = None
            self._schedule(0 if self._again else RENEW)

        renewing.addCallback(renewed)

    async def _renew(self) -> None:
        try:
            await self._keep_books_and_leases()
            await self._look()
        except CancelledError:
            raise  # the stop waited for this, and there is no more time
        except Exception:
            logger.exception("the books and leases of destinations could not be kept; they will be")

    async def _keep_books_and_leases(self) -> None:
        began = self._clock.seconds()
        marks, told = self._sender.books(self._held)
        told += self._left_behind
        marks.update(self._joining)
        marks.update(self._leaving)
        held = await self._store.hold(LEASE, marks, told, alone=self._alone)
        self._sender.booked(told)
        self._left_behind.clear()
        here = self._held | self._joining.keys() | self._leaving.keys()
        self._lose(here - held.shards.keys())
        # Not before what was lost is forgotten: it begins transactions.
        self._sender.go_on(began + LEASE - MARGIN - self._clock.seconds())
        gained = {shard: mark for shard, mark in held.shards.items() if shard not in here}
        if gained:
            await self._take_over(gained)
        await self._share(len(held.shards) - held.part)

    def _lose(self, lost: Collection[int]) -> None:
        """Another process has these, or had them meanwhile."""
        if not lost:
            return
        logger.warning("lost the lease of some destinations", extra={"fields": {"shards": len(lost)}})
        self._feed.leave(lost)
        self._sender.drop(lost)
        self._held.difference_update(lost)
        for shard in lost:
            self._joining.pop(shard, None)
            self._leaving.pop(shard, None)
        self._again = True  # they may be free

    async def _take_over(self, shards: Mapping[int, int]) -> None:
        """Serve these, from where they were left."""
        behind = await self._destinations.behind(list(shards))
        joining = self._feed.join(shards)
        self._sender.serve(shards.keys())
        self._joining.update(shards)
        self._sender.behind(behind)
        self._look_due = True  # what was told before is told to nobody

        def joined(there: Collection[int]) -> None:
            for shard in there:
                if self._joining.pop(shard, None) is not None:
                    self._held.add(shard)

        joining.addCallbacks(joined, lambda _cancelled: None)

    async def _look(self) -> None:
        """Wake the servers that units are kept for. What is kept from now on is told."""
        now = self._clock.seconds()
        if not (self._held or self._joining) or not (self._look_due or now - self._looked_at >= LOOK):
            return
        self._look_due, self._looked_at = False, now
        try:
            waiting = await self._edus.waiting()
        except Exception:
            self._look_due = True
            raise
        self._sender.kept(waiting)

    async def _share(self, too_many: int) -> None:
        """Give back what is above the even part: at once where nothing is under way, so those first; until all is
        given back nobody sends to the servers of a shard."""
        if too_many > len(self._leaving):
            quiet_first = sorted(self._held, key=lambda shard: (self._sender.is_sending(shard), -shard))
            leaving = quiet_first[: too_many - len(self._leaving)]
            marks, told = self._sender.books(leaving)
            self._leaving.update(marks)
            self._left_behind += told
            self._held.difference_update(leaving)
            self._sender.drop(leaving)
            for shard in filter(self._sender.is_sending, leaving):
                self._sender.wait_sent(shard).addCallback(self._renew_soon)
        free = {shard: mark for shard, mark in self._leaving.items() if not self._sender.is_sending(shard)}
        if free:
            told = [each for each in self._left_behind if shard_of(each[0]) in free]
            await self._store.let_go(free, told)
            self._left_behind = [each for each in self._left_behind if each not in told]
            for shard in free:
                del self._leaving[shard]
