# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is: one transaction under way to each server, a bounded number altogether, servers taking turns.

Owns the lanes of the servers that this process serves, and the books of what each is owed. A server that is away or
behind is an entry in a dictionary and in one heap; it gets a lane, and what it missed, when it is worth trying again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from federation.client.errors import BackingOff, NotAsked, Unreachable
from federation.outbound.delivery import Outcome
from federation.outbound.lane import Held, Lane
from federation.outbound.loading import Load, Loader
from federation.outbound.progress import Progress
from federation.outbound.retries import Retries
from federation.outbound.transaction import MOST_BYTES, Edu, Item, Pdu
from homeserver.needs import Protocol
from homeserver.protocol.identifiers import is_valid_server_name
from storage.destinations import SHARDS, shard_of

logger = logging.getLogger(__name__)

MOST_IN_FLIGHT = 100
MOST_PROBES = 20
"""Of these, transactions to servers that failed the last time, which may each take a minute to fail again."""
MOST_QUEUED = 100_000
"""Events waiting in all lanes, counted once for each; then lanes forget theirs and read them back later."""
SCARCE_BYTES = 65_536
"""Of a load where those under way already take what they may: everybody gets on, if slowly."""
OWN_TROUBLE_PAUSE = 30_000
"""Milliseconds until a server is tried again when the trouble was on this side."""


class Scheduler(Protocol):
    """The reactor's part that is needed here."""

    def callLater(self, delay: float, fn: Callable[..., object], /, *args: object) -> Any: ...  # noqa: N802


class Availability(Protocol):
    """What is needed of `federation.destinations.Availability`."""

    def is_well(self, destination: str) -> bool: ...
    def may_send_at(self, destination: str) -> int: ...
    def failed(self, destination: str, reason: str | None = None) -> None: ...
    def refused(self, destination: str, reason: str) -> None: ...
    def delivered(self, destination: str) -> None: ...


class Delivers(Protocol):
    async def deliver(self, destination: str, items: Sequence[Item]) -> Outcome: ...


class Sender:
    """One per process."""

    def __init__(
        self,
        *,
        availability: Availability,
        delivery: Delivers,
        loader: Loader,
        progress: Progress,
        scheduler: Scheduler,
        now: Callable[[], int],
        most_bytes: int,
    ) -> None:
        """`available` must be called with servers that may be sent to earlier than was thought. `most_bytes`: of what
        waits in memory, and of what is on its way, together."""
        self._availability = availability
        self._delivery = delivery
        self._loader = loader
        self._progress = progress
        self._now = now
        self._retries = Retries(scheduler=scheduler, now=now, due=self._due)
        self._shards: set[int] = set()
        self._ours_until = 0.0
        self._stopped = False
        self._held = Held(most_bytes // 2)
        self._most_loaded = most_bytes // 2
        self._loaded = 0
        """Bytes of the loads under way, besides what their lanes hold."""
        self._lanes: dict[str, Lane] = {}
        self._owed: dict[str, int] = {}
        """Servers without a lane that are behind, and up to which position they have everything."""
        self._keeping: set[str] = set()
        """Servers for which units are kept, as far as known."""
        self._recorded: dict[str, int] = {}
        """What the database knows of those who are behind."""
        self._unrecorded: set[str] = set()
        """Those of whom it may have to learn something."""
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._probes: OrderedDict[str, None] = OrderedDict()
        self._busy: set[str] = set()
        self._probing: set[str] = set()
        self._paused: dict[str, int] = {}
        """Servers that are not sent to before a time for a reason that is none of theirs."""
        self._queued = 0
        self._pumping = False
        self._idle: list[Deferred[None]] = []
        self._left: dict[int, Deferred[None]] = {}
        """Shards that wait for the transactions to their servers to end."""

    # What there is to send.

    def serves(self, destination: str) -> bool:
        """Whether the server is this process's to send to."""
        return len(self._shards) == SHARDS or shard_of(destination) in self._shards

    def serves_any(self) -> bool:
        """Whether this process sends to any server at all."""
        return bool(self._shards)

    def offer(self, pdu: Pdu, destinations: Iterable[str]) -> None:
        """A new event, in the order of positions."""
        for name in destinations:
            if not self.serves(name) or name in self._owed:
                continue
            lane = self._lanes.get(name)
            if lane is None:
                if not is_valid_server_name(name):
                    continue  # a member event may be about anything
                at = self._may_send_at(name)
                if at > self._now():
                    self._owe(name, pdu.position - 1)
                    self._retries.put(name, at)
                    continue
                lane = self._lanes[name] = Lane(name, self._held)
            was_behind = lane.behind
            self._queued += lane.offer(pdu, self._queued < MOST_QUEUED)
            if lane.behind != was_behind:
                self._unrecorded.add(name)
            self._wake(name)

    def pass_on(self, destination: str, key: tuple[str, str], edu: Edu) -> None:
        """A unit that is worth sending now or never."""
        if not self.serves(destination) or destination in self._owed:
            return
        lane = self._lanes.get(destination)
        if lane is None:
            if self._may_send_at(destination) > self._now():
                return
            lane = self._lanes[destination] = Lane(destination, self._held)
        lane.pass_on(key, edu)
        self._wake(destination)

    def kept(self, destinations: Iterable[str]) -> None:
        """Something is kept for these servers."""
        for name in destinations:
            if self.serves(name):
                self._keeping.add(name)
                self._wake(name)

    def behind(self, destinations: Iterable[tuple[str, int]]) -> None:
        """Servers that were behind when this process took them over."""
        for name, position in destinations:
            self._owed[name] = self._recorded[name] = position
            self._wake(name)

    def available(self, destination: str) -> None:
        """It may be sent to earlier than was thought."""
        if destination in self._owed or destination in self._keeping:
            self._wake(destination, alive=True)

    # Whose turn it is.

    def _owe(self, name: str, position: int) -> None:
        self._owed[name] = position
        self._unrecorded.add(name)

    def _may_send_at(self, name: str) -> int:
        return max(self._availability.may_send_at(name), self._paused.get(name, 0))

    def _wake(self, name: str, *, alive: bool = False) -> None:
        """Send to it as soon as its turn comes, if there is anything. `alive`: it is not one that may time out."""
        if name in self._busy or not self.serves(name):
            return
        at = self._may_send_at(name)
        if at > self._now():
            self._put_off(name, at)
            return
        self._paused.pop(name, None)
        self._retries.forget(name)
        if alive or self._availability.is_well(name):
            self._probes.pop(name, None)
            self._ready[name] = None
        elif name not in self._ready:
            self._probes[name] = None
        self._pump()

    def _due(self, name: str) -> None:
        if name in self._owed or name in self._keeping or name in self._lanes:
            self._wake(name)

    def _put_off(self, name: str, at: int) -> None:
        """Not before then: until then it has no lane."""
        lane = self._lanes.pop(name, None)
        if lane is not None:
            self._queued -= len(lane.pdus)
            if lane.owed_from is not None:
                self._owe(name, lane.owed_from)
            elif name in self._recorded:
                self._unrecorded.add(name)
            lane.close()
        if name in self._owed or name in self._keeping:
            self._retries.put(name, at)

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._may_start and len(self._busy) < MOST_IN_FLIGHT:
                if self._ready:
                    name, _ = self._ready.popitem(last=False)
                elif self._probes and len(self._probing) < MOST_PROBES:
                    name, _ = self._probes.popitem(last=False)
                    self._probing.add(name)
                else:
                    break
                self._start(name)
        finally:
            self._pumping = False

    def _start(self, name: str) -> None:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(name, self._held, self._owed.pop(name, None))
        self._busy.add(name)
        lane.served = True
        Deferred.fromCoroutine(self._serve(lane)).addBoth(self._served, lane)

    def _served(self, _result: object, lane: Lane) -> None:
        name = lane.name
        lane.served = False
        self._busy.discard(name)
        self._probing.discard(name)
        if lane.retired:
            lane.close()
        if self._lanes.get(name) is lane and lane.is_empty:
            del self._lanes[name]
            if name in self._recorded:
                self._unrecorded.add(name)
        if name in self._lanes or name in self._owed or name in self._keeping:
            self._wake(name)
        shard = shard_of(name) if self._left else -1
        if shard in self._left and not self.is_sending(shard):
            self._left.pop(shard).callback(None)
        if not self._busy:
            idle, self._idle = self._idle, []
            for waiting in idle:
                waiting.callback(None)
        self._pump()

    # One turn.

    async def _serve(self, lane: Lane) -> None:
        name = lane.name
        load: Load | None = None
        room = taken = min(MOST_BYTES, max(SCARCE_BYTES, (self._most_loaded - self._loaded) // 4))
        self._loaded += taken
        try:
            had_kept = name in self._keeping
            self._keeping.discard(name)  # what is added from here on is found by the next look
            lane.begin_catching_up(self._progress.of(shard_of(name)))
            load = await self._loader.load(lane, kept=had_kept, room=room)
            self._loaded += load.weight - taken
            taken = load.weight
            if not load.missed:
                self._queued -= len(load.events)
            if load.more_kept:
                self._keeping.add(name)
            if not load.items:
                return
            if lane.retired or self._now() >= self._ours_until:
                # It took that long to load; another process may be sending it.
                self._take_back(lane, load)
                return
            outcome = await self._delivery.deliver(name, load.items)
            await self._settle(lane, load, outcome)
        except Exception:
            logger.exception("something could not be sent", extra={"fields": {"destination": name}})
            if load is None:
                self._queued -= len(lane.sending)
            if not lane.retired:
                self._keeping.add(name)  # perhaps: the next look will tell
                lane.take_back()
                self._paused[name] = self._now() + OWN_TROUBLE_PAUSE
        finally:
            self._loaded -= taken

    async def _settle(self, lane: Lane, load: Load, outcome: Outcome) -> None:
        """The load, or its first part, arrived."""
        name = lane.name
        events, kept = load.arrived(outcome.done)
        if not lane.retired:
            if load.missed:
                lane.caught_up_with(events)
            else:
                lane.sent(events)
            if name in self._recorded or lane.behind is not None:
                self._unrecorded.add(name)
        failure = outcome.failure
        if failure is None:
            self._availability.delivered(name)
        elif isinstance(failure, NotAsked | BackingOff):
            pass  # nothing new is known of the server
        elif isinstance(failure, Unreachable):
            self._availability.failed(name, failure.reason)
        else:
            self._availability.refused(name, failure.reason)
        if failure is not None and not lane.retired:
            self._take_back(lane, load)
            if self._may_send_at(name) <= self._now():
                self._paused[name] = self._now() + OWN_TROUBLE_PAUSE
        if kept:
            await self._loader.forget(name, kept)

    def _take_back(self, lane: Lane, load: Load) -> None:
        """What is left of the load did not arrive."""
        if load.kept_ids and not lane.retired:
            self._keeping.add(lane.name)
        lane.take_back()

    # Serving, and the books.

    def serve(self, shards: Collection[int]) -> None:
        """Take on these shards: from now on their servers' events are offered here."""
        self._shards.update(shards)

    def go_on(self, seconds: float) -> None:
        """For how long transactions may be started: not while it is uncertain whose the shards are."""
        self._ours_until = self._now() + seconds * 1000
        self._pump()

    @property
    def _may_start(self) -> bool:
        """Asks the clock, since a process that stood still may come here before it comes to any timer."""
        return not self._stopped and self._now() < self._ours_until

    def drop(self, shards: Collection[int]) -> None:
        """These shards are another process's."""
        self._shards.difference_update(shards)
        gone = set(shards)
        for name in [name for name in self._names() if shard_of(name) in gone]:
            lane = self._lanes.pop(name, None)
            if lane is not None:
                self._queued -= len(lane.pdus)
                lane.retire()
            self._owed.pop(name, None)
            self._recorded.pop(name, None)
            self._keeping.discard(name)
            self._unrecorded.discard(name)
            self._ready.pop(name, None)
            self._probes.pop(name, None)
            self._paused.pop(name, None)
            self._retries.forget(name)

    def _names(self) -> set[str]:
        return {*self._lanes, *self._owed, *self._recorded, *self._keeping, *self._unrecorded}

    def is_sending(self, shard: int) -> bool:
        """Whether a transaction to a server of the shard is under way."""
        return any(shard_of(name) == shard for name in self._busy)

    def wait_sent(self, shard: int) -> Deferred[None]:
        """Fires once, when no transaction to any server of a dropped shard is under way; ask once."""
        done: Deferred[None] = Deferred()
        if self.is_sending(shard):
            self._left[shard] = done
        else:
            done.callback(None)
        return done

    def books(self, shards: Collection[int]) -> tuple[dict[int, int], list[tuple[str, int | None]]]:
        """Up to where all servers of each shard have everything, but for those of whom the database knows, or is to be
        told: those, with their own positions (None: no longer behind)."""
        marks = {shard: self._progress.of(shard) for shard in shards}
        told = [(name, self._position(name)) for name in self._unrecorded if shard_of(name) in marks]
        self._unrecorded.difference_update(name for name, at in told if at == self._recorded.get(name))
        told = [(name, at) for name, at in told if at != self._recorded.get(name)]
        excepted = self._recorded.keys() | {name for name, at in told if at is not None}
        for name, lane in self._lanes.items():
            shard, owed_from = shard_of(name), lane.owed_from
            if shard in marks and owed_from is not None and name not in excepted:
                marks[shard] = min(marks[shard], owed_from)
        return marks, told

    def booked(self, told: Iterable[tuple[str, int | None]]) -> None:
        """The database knows."""
        for name, position in told:
            if position is None:
                self._recorded.pop(name, None)
            elif self.serves(name):
                self._recorded[name] = position
            if self._position(name) == position:
                self._unrecorded.discard(name)

    def _position(self, name: str) -> int | None:
        """What the database should know of a server."""
        owed = self._owed.get(name)
        if owed is not None:
            return owed
        lane = self._lanes.get(name)
        if lane is None:
            return None
        # Who is known to be behind stays so until nothing waits any more: its shard's mark need not wait for it.
        return lane.owed_from if lane.behind is not None or name in self._recorded else None

    # Life.

    def wait_idle(self) -> Deferred[None]:
        """Fires when no transaction is under way."""
        done: Deferred[None] = Deferred()
        if self._busy:
            self._idle.append(done)
        else:
            done.callback(None)
        return done

    def stop(self) -> None:
        """Start nothing more."""
        self._stopped = True
        self._retries.stop()

    @property
    def weight(self) -> int:
        """About how many bytes wait in memory or are on their way."""
        return self._held.bytes + self._loaded

    @property
    def figures(self) -> Mapping[str, Callable[[], float]]:
        """See `OutboundMetrics.watch`."""
        return {
            "lanes": lambda: len(self._lanes),
            "in_flight": lambda: len(self._busy),
            "queued": lambda: self._queued,
            "behind": lambda: len(self._owed),
            "shards": lambda: len(self._shards),
        }
