# SPDX-License-Identifier: Apache-2.0
"""How other servers are: which are worth trying now, shared by everything that asks or sends them something.

A server that is not reached is left alone for ten seconds, then for twice as long each time, up to a day. Asked and
told in memory; kept, and passed on to the other processes, in the background. One that answers costs no memory and no
row but for the hour of its last success. What servers are owed is the queues' (`federation/outbound`).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace
from prometheus_client import Gauge
from twisted.internet.defer import Deferred

from homeserver.needs import Protocol
from storage.destinations import Standing, heard

logger = logging.getLogger(__name__)

_FAILING = Gauge("lares_federation_failing_destinations", "Servers known here that are not reached or refuse")

FIRST_PAUSE = 10_000
LONGEST_PAUSE = 86_400_000
"""Milliseconds between two attempts at reaching a server, from the first failure on."""
FIRST_REFUSED_PAUSE = 60_000
"""The same where it answers transactions with errors: after some of them the fault is looked for in what was sent."""
JITTER = 0.2
"""Pauses are longer by up to this part, so that what failed together is not tried together."""
SPOKE_PAUSE = 60_000
"""A server that speaks to us is tried at once, but only once in so many milliseconds: it may be one that cannot be
reached from here. Where it failed only a few times, in no more than its pause, since networks heal."""
MOST_KNOWN = 20_000
"""Failing servers remembered; of more, those that were not asked for the longest count as well."""
WRITE_PAUSE = 1.0
"""Seconds for which news gathers before it is written."""
PORTION = 500
SUCCESS_PAUSE = 3_600_000
"""Milliseconds between two notes of when a server was last delivered to."""


class Scheduler(Protocol):
    """The reactor's part that is needed here."""

    def callLater(self, delay: float, fn: Callable[..., object], /, *args: object) -> Any: ...  # noqa: N802


class Standings(Protocol):
    """Where standings are kept (`storage.destinations.DestinationStore`)."""

    async def in_trouble(self, limit: int) -> list[Standing]: ...
    async def put_standings(self, standings: Sequence[Standing]) -> None: ...
    async def forget_old(self, now: int) -> int: ...


class Availability:
    """One per process."""

    def __init__(
        self,
        *,
        origin: str,
        store: Standings,
        scheduler: Scheduler,
        now: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        """`origin` names this process; `now` gives milliseconds since 1970, `random` a number from 0 to 1.

        `heard` must be called with what the channel `destinations` says, `interrupted` when some of it may have been
        missed.
        """
        self._origin = origin
        self._store = store
        self._scheduler = scheduler
        self._now = now
        self._random = random
        self._standings: OrderedDict[str, Standing] = OrderedDict()
        self._spoke_at: OrderedDict[str, int] = OrderedDict()
        self._succeeded_at: OrderedDict[str, int] = OrderedDict()
        self._unwritten: dict[str, Standing] = {}
        self._on_the_way: set[str] = set()
        """Written, or about to be, and not heard of yet: what others say of these until then was written before."""
        self._missed = False
        """Something may have been told that was not heard."""
        self._new: set[str] | None = None
        """While the database is read: of whom something was learnt since, which may be newer than what is read."""
        self._write_call: Any = None
        self._writing: Deferred[None] | None = None
        self._stopped = False
        self._watchers: list[Callable[[str], None]] = []
        _FAILING.set_function(lambda: len(self._standings))

    # Life.

    async def start(self) -> None:
        """Remember what is kept."""
        await self._store.forget_old(self._now())
        await self._read()

    def interrupted(self) -> None:
        """The channel is listened to again, and something may have been told in between."""
        self._missed = True
        self._write_soon()

    async def stop(self) -> None:
        """Write what is not written yet."""
        self._stopped = True
        if self._write_call is not None:
            self._write_call.cancel()
            self._write_call = None
        if self._writing is not None:
            await self._writing
        left = len(self._unwritten) + 1
        while self._unwritten and len(self._unwritten) < left:
            left = len(self._unwritten)
            await self._write()

    def watch(self, watcher: Callable[[str], None]) -> None:
        """Have `watcher` called with each server that may be tried, or sent to, earlier than was thought."""
        self._watchers.append(watcher)

    # What others ask.

    def may_try(self, destination: str) -> bool:
        """Whether a request is worth making now."""
        standing = self._standings.get(destination)
        return standing is None or standing.retry_at <= self._now()

    def may_send_at(self, destination: str) -> int:
        """When a transaction may be sent, in milliseconds since 1970; 0: at any time."""
        standing = self._standings.get(destination)
        return 0 if standing is None else max(standing.retry_at, standing.send_again_at)

    def is_well(self, destination: str) -> bool:
        """Whether the server was neither unreachable nor refusing when last asked."""
        return destination not in self._standings

    def refusals(self, destination: str) -> int:
        """How many transactions in a row it answered with an error."""
        standing = self._standings.get(destination)
        return 0 if standing is None else standing.refusals

    # What others tell.

    def succeeded(self, destination: str) -> None:
        """It answered, whatever it said."""
        standing = self._standings.get(destination)
        if standing is not None and standing.failures:
            self._put(replace(standing, failures=0, failing_since=None, retry_at=0))
            self._tell(destination)

    def failed(self, destination: str, reason: str | None = None) -> None:
        """It was not reached, or nothing usable came back. Several failures at once count as one."""
        now = self._now()
        standing = self._standings.get(destination, Standing(destination))
        if standing.retry_at > now:
            if reason is not None:
                self._put(replace(standing, reason=_shortened(reason)))
            return
        failures = standing.failures + 1
        self._put(
            replace(
                standing,
                failures=failures,
                failing_since=standing.failing_since if standing.failures else now,
                retry_at=now + self._pause(FIRST_PAUSE, failures),
                reason=_shortened(reason) or standing.reason,
            )
        )

    def refused(self, destination: str, reason: str) -> None:
        """It answered a transaction with an error that is not the transaction's fault."""
        now = self._now()
        standing = self._standings.get(destination, Standing(destination))
        refusals = standing.refusals + 1
        self._put(
            replace(
                standing,
                refusals=refusals,
                failing_since=standing.failing_since or now,
                send_again_at=now + self._pause(FIRST_REFUSED_PAUSE, refusals),
                reason=_shortened(reason),
            )
        )

    def delivered(self, destination: str) -> None:
        """It took a transaction."""
        now = self._now()
        standing = self._standings.get(destination)
        if standing is None and now - self._succeeded_at.get(destination, 0) < SUCCESS_PAUSE:
            return
        self._put(Standing(destination, last_success=now))
        self._succeeded_at[destination] = now
        self._succeeded_at.move_to_end(destination)
        if len(self._succeeded_at) > MOST_KNOWN:
            self._succeeded_at.popitem(last=False)

    def spoke(self, destination: str) -> None:
        """It made a request of ours, properly signed: it is up, and may be tried at once."""
        standing = self._standings.get(destination)
        now = self._now()
        if standing is None or standing.retry_at <= now:
            return
        if now - self._spoke_at.get(destination, 0) < min(
            SPOKE_PAUSE, _doubled(FIRST_PAUSE, standing.failures)
        ):
            return
        self._spoke_at[destination] = now
        self._spoke_at.move_to_end(destination)
        if len(self._spoke_at) > MOST_KNOWN:
            self._spoke_at.popitem(last=False)
        self._put(replace(standing, retry_at=now))
        self._tell(destination)

    def heard(self, payload: str) -> None:
        """A notification of the channel. They come in the order in which what they tell was written, our own as well.

        Who sent it had not heard yet what is unwritten here, or on its way. Of the two that by which the server is
        tried sooner counts: an attempt in vain costs little, a pause may be a day.
        """
        origin, standings = heard(payload)
        if origin == self._origin:
            self._on_the_way.difference_update(told.server_name for told in standings)
            return
        for told in standings:
            name = told.server_name
            on_the_way = name in self._on_the_way
            if (name in self._unwritten or on_the_way) and not self._sooner(told):
                continue
            self._unwritten.pop(name, None)
            self._learn(told)
            if on_the_way:  # what was written here comes after it, and is what all others will believe
                self._put(told)

    # Keeping.

    def _pause(self, first: int, attempts: int) -> int:
        return round(_doubled(first, attempts) * (1 + JITTER * self._random()))

    def _tell(self, destination: str) -> None:
        for watcher in self._watchers:
            watcher(destination)

    def _sooner(self, told: Standing) -> bool:
        """Whether it may be sent to sooner by what is told than by what is known."""
        return max(told.retry_at, told.send_again_at) < self.may_send_at(told.server_name)

    def _learn(self, told: Standing) -> None:
        sooner = self._sooner(told)
        self._remember(told)
        if sooner:
            self._tell(told.server_name)

    def _put(self, standing: Standing) -> None:
        self._remember(standing)
        self._unwritten[standing.server_name] = standing
        self._write_soon()

    def _remember(self, standing: Standing) -> None:
        name = standing.server_name
        if self._new is not None:
            self._new.add(name)
        if standing.is_well:
            self._standings.pop(name, None)
            return
        self._standings[name] = standing
        self._standings.move_to_end(name)
        if len(self._standings) > MOST_KNOWN:
            self._standings.popitem(last=False)

    def _write_soon(self) -> None:
        if self._write_call is None and self._writing is None and not self._stopped:
            self._write_call = self._scheduler.callLater(WRITE_PAUSE, self._begin_write)

    def _begin_write(self) -> None:
        self._write_call = None
        self._writing = Deferred.fromCoroutine(self._read_and_write())
        self._writing.addBoth(self._written)

    def _written(self, _result: object) -> None:
        self._writing = None
        if self._unwritten or self._missed:
            self._write_soon()

    async def _read_and_write(self) -> None:
        if self._missed:
            self._missed = False
            try:
                await self._read()
            except Exception:
                self._missed = True
                logger.warning("how other servers are could not be read; it will be", exc_info=True)
        if self._unwritten:
            await self._write()

    async def _read(self) -> None:
        """Believe what is kept, but of those of whom something newer is known. Nothing is written meanwhile."""
        self._on_the_way.clear()
        self._new = new = set(self._unwritten)
        try:
            kept = {each.server_name: each for each in await self._store.in_trouble(MOST_KNOWN)}
        finally:
            self._new = None
        for name in kept.keys() - new:
            self._learn(kept[name])
        if len(kept) < MOST_KNOWN:  # all of them
            for name in self._standings.keys() - kept.keys() - new:
                self._learn(Standing(name))

    async def _write(self) -> None:
        portion = [self._unwritten.pop(name) for name in list(self._unwritten)[:PORTION]]
        names = {standing.server_name for standing in portion}
        self._on_the_way |= names
        try:
            await self._store.put_standings(portion)
        except Exception:
            logger.warning("how other servers are could not be kept", exc_info=True)
            self._on_the_way -= names
            for standing in portion:
                known = self._standings.get(standing.server_name)
                if known is (None if standing.is_well else standing):  # nothing was heard since
                    self._unwritten.setdefault(standing.server_name, standing)


def _doubled(first: int, attempts: int) -> int:
    """The pause after so many attempts that failed, in milliseconds."""
    pause: int = min(first << min(max(attempts, 1) - 1, 20), LONGEST_PAUSE)
    return pause


def _shortened(reason: str | None) -> str | None:
    """What can be kept of a reason, which another server may have worded."""
    return None if reason is None else reason.replace("\0", "").encode(errors="replace").decode()[:300]
