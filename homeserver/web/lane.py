# SPDX-License-Identifier: Apache-2.0
"""Requests of one kind under strain: how many are carried out at a time, of whom, and how long the others would wait.

Owns these figures and who counts for how long. What becomes of a request is `admission`'s, whose turn it is `turns`'.
"""

from collections import Counter, OrderedDict
from typing import Final, Generic, TypeVar

from homeserver.needs import Protocol
from homeserver.web.kinds import Kind
from homeserver.web.turns import Turns

MOST_RUNNING: Final = {Kind.ORDINARY: 128, Kind.HEAVY: 8}
"""Requests at a time; of ordinary ones enough that those of many rooms, and of a busy one, share their commits."""
MOST_WAITING: Final = {Kind.ORDINARY: 1000, Kind.HEAVY: 400}
MOST_OF_USER: Final = {Kind.ORDINARY: 64, Kind.HEAVY: 64}
PATIENCE: Final = {Kind.ORDINARY: 2.5, Kind.HEAVY: 15.0}
"""Seconds that a request may wait: beyond, whoever sent it is better served by knowing."""
PLACE_SECONDS: Final = {Kind.ORDINARY: 2.0, Kind.HEAVY: 5.0}
"""After which a request that runs takes no place any more,"""
_STATEMENTS: Final = 2
"""and so many times what a statement waits for the database besides: what it has to ask may all have waited."""
MOST_BEGUN_OF_USER: Final = {Kind.ORDINARY: 64, Kind.HEAVY: 8}
"""Requests of one user that run, with a place or without, while statements wait for the database: they may all be
asking it, as everybody must;"""
_LATE: Final = 0.25
"""seconds from which they do;"""
_ELSEWHERE: Final = 4
"""and so many times as many while they do not: what runs for so long waits for something that is no one else's."""


class Asking(Protocol):
    """See `admission.Entry`."""

    @property
    def user(self) -> str: ...
    @property
    def room(self) -> str | None: ...
    @property
    def takes_place(self) -> bool: ...


E = TypeVar("E", bound=Asking)


class Lane(Generic[E]):
    """Requests of one kind: those that wait and those that run."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.turns: Turns[E] = Turns()
        self.running: OrderedDict[E, float] = OrderedDict()
        """With the time each began, the oldest first."""
        self._of: Counter[str] = Counter()
        """How many of them by user and by room."""
        self._lapsed: set[E] = set()
        """Those that run and take no place any more."""
        self._begun: Counter[str] = Counter()
        """How many run by user, these included."""
        self._database_late = False
        self.rate = 0.0
        """How many ended per second lately; 0 while nobody knows."""
        self.ended = 0

    def has_place(self, entry: E) -> bool:
        """Whether there is one for this very user and room."""
        most = MOST_RUNNING[self.kind]
        if len(self.running) >= most:
            return False
        if entry.takes_place and self._begun[entry.user] >= self._most_begun():
            return False
        return self._of[entry.user] < most // 2 and (entry.room is None or self._of[entry.room] < most // 2)

    def _most_begun(self) -> int:
        most = MOST_BEGUN_OF_USER[self.kind]
        return most if self._database_late else _ELSEWHERE * most

    def begins(self, entry: E, now: float) -> None:
        """It gets a place, if it takes one."""
        if not entry.takes_place:
            self.ended += 1  # as far as the next is concerned
            return
        self.running[entry] = now
        self._begun[entry.user] += 1
        self._of[entry.user] += 1
        if entry.room is not None:
            self._of[entry.room] += 1

    def ends(self, entry: E) -> bool:
        """Whether somebody may have its place, or one of its user's, now."""
        if self.running.pop(entry, None) is not None:
            self._vacate(entry)
        elif entry in self._lapsed:
            self._lapsed.discard(entry)
        else:
            return False
        self.ended += 1
        self._begun[entry.user] -= 1
        if not self._begun[entry.user]:
            del self._begun[entry.user]
        return True

    def _vacate(self, entry: E) -> None:
        for key in (entry.user, entry.room):
            if key is not None:
                self._of[key] -= 1
                if not self._of[key]:
                    del self._of[key]

    def clear(self) -> None:
        """Nobody counts any more."""
        self.running.clear()
        self._of.clear()
        self._lapsed.clear()
        self._begun.clear()
        self._database_late = False
        self.rate = 0.0

    def too_long(self, user: str, *, at_once: bool = False) -> str | None:
        """Why one more request of the user would wait in vain. `at_once`: there is a place that those who wait may not
        have.
        """
        waiting, most, own = len(self.turns), MOST_WAITING[self.kind], self.turns.waiting_of(user)
        # The last places in the queue are for those who have fewer than others, or a few greedy ones would fill it.
        if waiting >= most or (waiting >= most * 3 // 4 and own * self.turns.users >= waiting):
            return "queue"
        if own >= MOST_OF_USER[self.kind]:
            return "share"
        return "share" if not at_once and self.wait(user) > PATIENCE[self.kind] else None

    def wait(self, user: str) -> float:
        """Seconds until one more request of the user would have its turn, about."""
        if self.rate <= 0.0:
            return 0.0
        own = self.turns.waiting_of(user)
        users = self.turns.users + (own == 0)
        # A user's turns are half of all at worst, and never after everything that waits.
        return min(2 * (own + 1) * users, len(self.turns) + 1) / self.rate

    def lapse(self, now: float, database_wait: float) -> None:
        """Give away the places of those that run for so long that they must wait for something else."""
        self._database_late = database_wait >= _LATE
        latest = now - PLACE_SECONDS[self.kind] - _STATEMENTS * database_wait
        while self.running and next(iter(self.running.values())) < latest:
            entry, _ = self.running.popitem(last=False)
            self._vacate(entry)
            self._lapsed.add(entry)
