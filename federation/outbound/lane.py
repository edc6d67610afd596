# SPDX-License-Identifier: Apache-2.0
"""What waits for one server in this process, and from where it goes on after it was away.

A lane exists only while there is something to send and the server may be sent to. Owns no I/O.

A server that is behind (`behind` is the position up to which it has everything) is caught up from the database as far
as `goal`, which was the position of the feed when that began; what the feed brings from then on waits in `pdus`. So
nothing falls between. Where too much waits, the lane forgets it, and sets itself a new goal.
"""

from __future__ import annotations

from collections import deque

from federation.outbound.transaction import Edu, Pdu
from storage.outbound import Place

MOST_PDUS_WAITING = 200
MOST_FLEETING = 1000


class Lane:
    """See the module."""

    __slots__ = ("behind", "covered", "fleeting", "goal", "name", "pdus", "places", "retired", "sending")

    def __init__(self, name: str, behind: int | None = None) -> None:
        self.name = name
        self.behind = behind
        self.goal: int | None = None
        self.places: deque[Place] = deque()
        self.covered = 0
        """The position up to which the server has everything once it has what is at `places`."""
        self.pdus: deque[Pdu] = deque()
        self.sending: list[Pdu] = []
        """On their way, out of `pdus`."""
        self.fleeting: dict[tuple[str, str], Edu] = {}
        self.retired = False
        """Served by another process from now on; what comes of what is on its way is of no concern."""

    @property
    def is_empty(self) -> bool:
        return self.behind is None and not self.pdus and not self.sending and not self.fleeting

    @property
    def owed_from(self) -> int | None:
        """The position up to which the server has everything; None: as far as the feed is."""
        if self.behind is not None:
            return self.behind
        if self.sending:
            return self.sending[0].position - 1
        return self.pdus[0].position - 1 if self.pdus else None

    def offer(self, pdu: Pdu, room_for_it: bool) -> int:
        """A new event; by how much the number of those waiting changed."""
        if self.behind is not None and self.goal is None:
            return 0  # to be found in the database
        if room_for_it and len(self.pdus) < MOST_PDUS_WAITING:
            self.pdus.append(pdu)
            return 1
        self.behind = self.owed_from if self.owed_from is not None else pdu.position - 1
        self.goal = None
        self.places.clear()
        forgotten = len(self.pdus)
        self.pdus.clear()
        return -forgotten

    def pass_on(self, key: tuple[str, str], edu: Edu) -> None:
        """A fleeting unit, which takes the place of an older one of its key."""
        self.fleeting.pop(key, None)
        if len(self.fleeting) >= MOST_FLEETING:
            del self.fleeting[next(iter(self.fleeting))]
        self.fleeting[key] = edu

    def begin_catching_up(self, taken: int) -> None:
        """From now on the feed's events wait here; what is at or below `taken` comes from the database."""
        if self.behind is not None and self.goal is None:
            self.goal = taken

    def found(self, places: list[Place], *, all_of_them: bool) -> None:
        """What was missed; some if not `all_of_them`, which goes up to the goal."""
        assert self.goal is not None
        self.places = deque(places)
        self.covered = self.goal if all_of_them else places[-1].position

    def caught_up_with(self, count: int) -> None:
        """The first so many of `places` arrived."""
        if self.behind is None or self.goal is None:
            return  # forgotten meanwhile, and to be looked for again
        for _ in range(count):
            self.behind = max(self.behind, self.places.popleft().position)
        if not self.places:
            self.behind = max(self.behind, self.covered)
            if self.behind >= self.goal:
                self.behind = self.goal = None

    def sent(self, count: int) -> None:
        """The first so many of `sending` arrived."""
        if self.behind is not None and count:
            self.behind = max(self.behind, self.sending[count - 1].position)
        del self.sending[:count]
