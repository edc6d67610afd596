# SPDX-License-Identifier: Apache-2.0
"""Who is let in, who waits and who is refused while the process has more to do than it can.

Owns that decision, for requests over HTTP and for those of WebSockets alike. While nothing is overloaded `busy` is
False, and to look at it is all that a request pays. Under strain

- a bounded number of requests is carried out at a time, at most half of them of one user or in one room; heavy ones
  (see `kinds`) apart and few;
- the others wait, users and rooms by turns (see `turns`), and who has gone away meanwhile is forgotten;
- who would wait too long, by what the queue moved lately and whoever stands before, is refused at once;
- who goes on asking after many refusals gets the next one late: a client that heeds no answer is slowed by its own
  connections, or the refusals themselves would take the place of the work;
- what is free goes by, as long as its user does not live on it.

What has begun is carried out. A place is counted for a while only: a request that takes longer, though the database is
not that late, waits for something else, another server perhaps, and takes nobody's turn. But its user has begun no more
than so many, fewer while the database is late, or one who asks for what is slow would get places for ever more of it.
"""

import logging
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred

from homeserver.errors import LimitExceeded
from homeserver.web.clock import Clock
from homeserver.web.kinds import Kind
from homeserver.web.lane import MOST_RUNNING, PATIENCE, Lane

log = logging.getLogger(__name__)

FEW_HEAVY: Final = 2
"""Heavy ones at a time while others wait."""
FREE_PER_SECOND: Final = 20
"""Of one user; what is beyond waits like all else."""
PATIENT_REFUSALS: Final = 2
"""Of one user in a second that are answered at once,"""
HOLD: Final = 1.0
"""and how many seconds the others are held,"""
MOST_HELD: Final = 2000
"""so many at most."""
_LONGEST_RETRY: Final = 30.0
_STARTS_AT_ONCE: Final = 200
"""Of one turn of the reactor."""


def _nobody(_token: str) -> str | None:
    return None


class Entry(ABC):
    """A request before it is carried out. One of `begin` and `refuse` is called, once."""

    __slots__ = ("kind", "room", "since", "takes_place", "user")

    def __init__(self, kind: Kind, user: str, room: str | None, *, takes_place: bool = True) -> None:
        """`user`: whom it counts for, a server or an address where nobody is logged in. `room`: as the client names it.
        `takes_place`: False for what mostly waits."""
        self.kind = kind
        self.user = user
        # Users and rooms are counted together: who named a user for the room would take that one's places.
        self.room = room if room is not None and room.startswith("!") else None
        self.takes_place = takes_place
        self.since = 0.0

    @abstractmethod
    def begin(self) -> None:
        """Carry it out, and have `Admission.done` called in the end."""

    @abstractmethod
    def refuse(self, error: LimitExceeded) -> None:
        """Answer that it is not carried out; or let go of it, where it is `gone`."""

    @abstractmethod
    def gone(self) -> bool:
        """Whether nobody waits for an answer any more."""


class _Turn(Entry):
    """Of a request that is no exchange."""

    __slots__ = ("come",)

    def __init__(self, user: str, room: str | None) -> None:
        super().__init__(Kind.ORDINARY, user, room)
        self.come: Deferred[Entry] = Deferred()

    def begin(self) -> None:
        self.come.callback(self)

    def refuse(self, error: LimitExceeded) -> None:
        self.come.errback(error)

    def gone(self) -> bool:
        return self.come.called


class Admission(Collector):
    """One per process; also a collector of its figures."""

    def __init__(
        self,
        clock: Clock,
        *,
        remembered: Callable[[str], str | None] = _nobody,
        figures: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """`remembered`: from a token to its user, where that is in memory. `figures`: see `Strain.figures`.

        Without anybody who calls `looked` everybody is let in.
        """
        self.busy = False
        """Whether requests must ask. All others may look at this and go on."""
        self.remembered = remembered
        self._clock = clock
        self._figures = figures
        self._strained = False
        self._short_of_memory = False
        self._ordinary = Lane[Entry](Kind.ORDINARY)
        self._heavy = Lane[Entry](Kind.HEAVY)
        self._dispatching = False
        self._counted_since = 0.0
        self._free: dict[str, int] = {}
        self._refusals: dict[str, int] = {}
        self._held: deque[tuple[float, Entry, LimitExceeded]] = deque()
        self._refused: dict[tuple[str, str], int] = {}
        self._told = 0
        self._left = 0
        self._random = random.Random()

    # From those who ask

    def passes_free(self, user: str) -> bool:
        """Whether a free request of the user goes by without asking further."""
        count = self._free[user] = self._free.get(user, 0) + 1
        return count <= FREE_PER_SECOND

    def is_crowded(self, kind: Kind) -> bool:
        """Whether as many of that kind wait as may run, so that what takes long to arrive had better not begin."""
        lane = self._heavy if kind is Kind.HEAVY else self._ordinary
        return self._short_of_memory or len(lane.turns) >= MOST_RUNNING[kind]

    def ask(self, entry: Entry) -> None:
        """Have it begun, now or in its turn, or refused."""
        entry.since = self._clock.seconds()
        lane = self._lane(entry)
        at_once = self._may_begin(lane) and lane.has_place(entry)
        if at_once and not len(lane.turns):
            self._begin(lane, entry)
            return
        reason = lane.too_long(entry.user, at_once=at_once)
        if reason is None and self._short_of_memory and lane is self._heavy:
            reason = "memory"
        if reason is None:
            lane.turns.put(entry, entry.user, entry.room)
            if self._may_begin(lane):  # those who wait are stuck in a room, or greedy
                self._dispatch()
        else:
            self._refuse(lane, entry, reason)

    async def turn(self, user: str, room: str | None) -> Entry | None:
        """Wait for the turn of a request that is no exchange; give what it got to `done`. Raises LimitExceeded."""
        if not self.busy:
            return None
        turn = _Turn(user, room)
        self.ask(turn)
        return await turn.come

    def done(self, entry: Entry) -> None:
        """What had begun has ended."""
        lane = self._lane(entry)
        if lane.ends(entry) and len(lane.turns):
            self._dispatch()

    # From those who measure

    def looked(self, strained: bool, *, short_of_memory: bool = False, database_wait: float = 0.0) -> None:
        """A look at the process; called many times a second while `busy`.

        `database_wait`: seconds that the oldest statement which waits for the database has waited.
        """
        if strained is not self._strained:
            self._strained = strained
            log.info(
                "more is asked for than can be done" if strained else "all that is asked for can be done"
            )
        self._short_of_memory = short_of_memory
        if not strained and not self.busy:
            return
        now = self._clock.seconds()
        self.busy = strained or bool(len(self._ordinary.turns) or len(self._heavy.turns) or self._held)
        if not self.busy:
            self._forget()
            return
        for lane in (self._ordinary, self._heavy):
            lane.lapse(now, database_wait)
        if now - self._counted_since >= 1.0:
            self._count(now)
        while self._held and self._held[0][0] <= now:
            _, entry, error = self._held.popleft()
            entry.refuse(error)
        self._dispatch()

    def _count(self, now: float) -> None:
        elapsed = now - self._counted_since
        refused = sum(self._refused.values())
        if refused > self._told:
            log.warning("there is too much to do: %d requests were refused", refused - self._told)
            self._told = refused
        for lane in (self._ordinary, self._heavy):
            if elapsed < 5.0:  # else it is the first second of a strain
                rate = lane.ended / elapsed
                lane.rate = rate if lane.rate <= 0.0 else (lane.rate + rate) / 2
            lane.ended = 0
        self._free.clear()
        self._refusals.clear()
        self._counted_since = now

    def _forget(self) -> None:
        for lane in (self._ordinary, self._heavy):
            lane.clear()
        self._free.clear()
        self._refusals.clear()
        self._counted_since = 0.0

    # Turns

    def _lane(self, entry: Entry) -> Lane[Entry]:
        return self._heavy if entry.kind is Kind.HEAVY else self._ordinary

    def _may_begin(self, lane: Lane[Entry]) -> bool:
        few = lane is self._heavy and len(self._ordinary.turns)
        return len(lane.running) < (FEW_HEAVY if few else MOST_RUNNING[lane.kind])

    def _begin(self, lane: Lane[Entry], entry: Entry) -> None:
        lane.begins(entry, self._clock.seconds())
        entry.begin()

    def _dispatch(self) -> None:
        if self._dispatching:  # one that began has ended at once: the loop below goes on
            return
        self._dispatching = True
        try:
            left = _STARTS_AT_ONCE
            for lane in (self._ordinary, self._heavy):
                while left and len(lane.turns) and self._may_begin(lane) and self._take(lane):
                    left -= 1
        finally:
            self._dispatching = False

    def _take(self, lane: Lane[Entry]) -> bool:
        """Begin the next, if it is still wanted; False if there is none that may."""
        patient = self._clock.seconds() - PATIENCE[lane.kind]
        entry = lane.turns.take(lambda each: lane.has_place(each) or each.since < patient)
        if entry is None:
            return False
        if entry.gone():
            self._left += 1
            entry.refuse(LimitExceeded(1000))
        elif entry.since < patient:
            self._refuse(lane, entry, "late")
        else:
            self._begin(lane, entry)
        return True

    def _refuse(self, lane: Lane[Entry], entry: Entry, reason: str) -> None:
        key = (lane.kind.name.lower(), reason)
        self._refused[key] = self._refused.get(key, 0) + 1
        wait = min(max(lane.wait(entry.user), 1.0), _LONGEST_RETRY)
        # Jittered, or all who were refused together would come back together.
        error = LimitExceeded(int(wait * self._random.uniform(1000, 2000)), "The server is busy")
        count = self._refusals[entry.user] = self._refusals.get(entry.user, 0) + 1
        if count > PATIENT_REFUSALS and len(self._held) < MOST_HELD:
            self._held.append((self._clock.seconds() + HOLD, entry, error))
        else:
            entry.refuse(error)

    # Figures

    def statistics(self) -> dict[str, int]:
        """`waiting`, `running`, `held` and `refused`, of all kinds."""
        lanes = (self._ordinary, self._heavy)
        return {
            "waiting": sum(len(lane.turns) for lane in lanes),
            "running": sum(len(lane.running) for lane in lanes),
            "held": len(self._held),
            "refused": sum(self._refused.values()),
        }

    def collect(self) -> Iterator[Metric]:
        """The metric families of this moment."""
        refused = CounterMetricFamily(
            "lares_overload_refused",
            "Requests refused because of overload, by kind and reason.",
            labels=("kind", "reason"),
        )
        for (kind, reason), count in sorted(self._refused.items()):
            refused.add_metric((kind, reason), count)
        yield refused
        yield CounterMetricFamily(
            "lares_overload_left", "Requests whose client left before their turn.", value=self._left
        )
        waiting = GaugeMetricFamily("lares_overload_waiting", "Requests that wait.", labels=("kind",))
        running = GaugeMetricFamily(
            "lares_overload_running", "Requests that have begun under overload.", labels=("kind",)
        )
        for lane in (self._ordinary, self._heavy):
            waiting.add_metric((lane.kind.name.lower(),), len(lane.turns))
            running.add_metric((lane.kind.name.lower(),), len(lane.running))
        yield waiting
        yield running
        yield GaugeMetricFamily("lares_overload_held", "Refusals that are held back.", value=len(self._held))
        yield GaugeMetricFamily("lares_overload", "1 while requests must wait.", value=int(self.busy))
        signs = GaugeMetricFamily(
            "lares_overload_sign", "Signs of overload, as parts of what is bearable.", labels=("sign",)
        )
        for sign, part in self._figures().items():
            signs.add_metric((sign,), part)
        yield signs
