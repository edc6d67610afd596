# SPDX-License-Identifier: Apache-2.0
"""What waits for one server in this process, and from where it goes on after it was away.

A lane exists only while there is something to send and the server may be sent to. Owns no I/O.

A server that is behind (`behind` is the position up to which it has everything) is caught up from the database as far
as `goal`, which was the position of the feed when that began; what the feed brings from then on waits in `pdus`. So
nothing falls between. Where too much waits, the lane forgets it, and sets itself a new goal.

What all lanes hold is weighed in `Held`: an event once, however many servers it waits for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from federation.outbound.transaction import MOST_PDUS, Edu, Pdu, weight
from storage.outbound import Place

MOST_PDUS_WAITING = 200
MOST_BYTES_WAITING = 4 * 2**20
"""Of these events."""
MOST_FLEETING = 1000
MOST_FLEETING_BYTES = 2**20
FLEETING_BYTES = 300
"""A fleeting unit weighs so much besides its content;"""
PLACE_BYTES = 150
"""and so much the place of an event that was missed."""


class Held:
    """About how many bytes the lanes of this process hold, and may hold."""

    __slots__ = ("bytes", "most")

    def __init__(self, most: int) -> None:
        self.bytes = 0
        self.most = most

    def let_go(self, pdus: Iterable[Pdu]) -> None:
        """A lane holds these no more."""
        for pdu in pdus:
            pdu.lanes -= 1
            if not pdu.lanes:
                self.bytes -= weight(pdu)


class Lane:
    """See the module."""

    __slots__ = (
        "_held",
        "behind",
        "covered",
        "fleeting",
        "fleeting_bytes",
        "goal",
        "name",
        "pdus",
        "places",
        "retired",
        "sending",
        "served",
        "waiting_bytes",
    )

    def __init__(self, name: str, held: Held, behind: int | None = None) -> None:
        self._held = held
        self.name = name
        self.behind = behind
        self.goal: int | None = None
        self.places: deque[Place] = deque()
        self.covered = 0
        """The position up to which the server has everything once it has what is at `places`."""
        self.pdus: deque[Pdu] = deque()
        self.waiting_bytes = 0
        self.sending: list[Pdu] = []
        """On their way, out of `pdus`."""
        self.fleeting: dict[tuple[str, str], Edu] = {}
        self.fleeting_bytes = 0
        self.served = False
        """A transaction is under way, or being put together."""
        self.retired = False
        """Served by another process from now on; what comes of what is on its way is of no concern."""

    @property
    def is_empty(self) -> bool:
        return self.behind is None and not self.pdus and not self.sending and not self.fleeting

    @property
    def has_room(self) -> bool:
        """Whether there is room for more places than go into the next transaction."""
        return self._held.bytes < self._held.most // 2

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
        if self.behind is not None and (self.goal is None or pdu.position <= self.goal):
            return 0  # to be found in the database
        held, size = self._held, weight(pdu)
        if (
            room_for_it
            and held.bytes < held.most
            and len(self.pdus) < MOST_PDUS_WAITING
            and self.waiting_bytes + size <= MOST_BYTES_WAITING
        ):
            if not pdu.lanes:
                held.bytes += size
            pdu.lanes += 1
            self.waiting_bytes += size
            self.pdus.append(pdu)
            return 1
        self.behind = self.owed_from if self.owed_from is not None else pdu.position - 1
        self.goal = None
        forgotten = len(self.pdus)
        self._forget()
        return -forgotten

    def _forget(self) -> None:
        """All events that wait."""
        self._held.bytes -= len(self.places) * PLACE_BYTES
        self.places.clear()
        self._held.let_go(self.pdus)
        self.pdus.clear()
        self.waiting_bytes = 0

    def begin_sending(self, room: int) -> int:
        """Put the next events on their way, one at least; how many of so many bytes are left."""
        while self.pdus and len(self.sending) < MOST_PDUS:
            size = weight(self.pdus[0])
            if self.sending and size > room:
                break
            room -= size
            self.waiting_bytes -= size
            self.sending.append(self.pdus.popleft())
        return room

    def pass_on(self, key: tuple[str, str], edu: Edu) -> None:
        """A fleeting unit, which takes the place of an older one of its key; dropped if too much is held."""
        size = FLEETING_BYTES + weight(edu)
        held = self._held
        if key in self.fleeting:
            self._drop_fleeting(key)
        elif held.bytes + size > held.most:
            return
        while self.fleeting and (
            len(self.fleeting) >= MOST_FLEETING or self.fleeting_bytes + size > MOST_FLEETING_BYTES
        ):
            self.next_fleeting()
        self.fleeting[key] = edu
        self.fleeting_bytes += size
        held.bytes += size

    def next_fleeting(self) -> Edu:
        """Take out the oldest."""
        return self._drop_fleeting(next(iter(self.fleeting)))

    def _drop_fleeting(self, key: tuple[str, str]) -> Edu:
        edu = self.fleeting.pop(key)
        size = FLEETING_BYTES + weight(edu)
        self.fleeting_bytes -= size
        self._held.bytes -= size
        return edu

    def begin_catching_up(self, taken: int) -> None:
        """From now on the feed's events wait here; what is at or below `taken` comes from the database."""
        if self.behind is not None and self.goal is None:
            self.goal = taken

    def found(self, places: list[Place], *, all_of_them: bool) -> None:
        """What was missed; some if not `all_of_them`, which goes up to the goal."""
        assert self.goal is not None
        self._held.bytes += (len(places) - len(self.places)) * PLACE_BYTES
        self.places = deque(places)
        self.covered = self.goal if all_of_them else places[-1].position

    def caught_up_with(self, count: int) -> None:
        """The first so many of `places` arrived."""
        if self.behind is None or self.goal is None:
            return  # forgotten meanwhile, and to be looked for again
        for _ in range(count):
            self.behind = max(self.behind, self.places.popleft().position)
        self._held.bytes -= count * PLACE_BYTES
        if not self.places:
            self.behind = max(self.behind, self.covered)
            if self.behind >= self.goal:
                self.behind = self.goal = None

    def sent(self, count: int) -> None:
        """The first so many of `sending` arrived."""
        if self.behind is not None and count:
            self.behind = max(self.behind, self.sending[count - 1].position)
        self._held.let_go(self.sending[:count])
        del self.sending[:count]

    def take_back(self) -> None:
        """What was on its way did not arrive: the server is behind from there, or had been before."""
        self.behind = self.owed_from
        self.goal = None
        self._let_go()

    def _let_go(self) -> None:
        """What is on its way, and what was worth sending then or never."""
        self._held.let_go(self.sending)
        self.sending.clear()
        while self.fleeting:
            self.next_fleeting()

    def retire(self) -> None:
        """Nothing waits here any more; what is on its way is seen through by whoever sent it."""
        self.retired = True
        self._forget()
        if not self.served:
            self.close()

    def close(self) -> None:
        """Nothing is held any more."""
        self._forget()
        self._let_go()
