# SPDX-License-Identifier: Apache-2.0
"""Whether this process has heard what others have told, and the wait until it has.

Any process answers anything, so a client may ask here about what another process just answered it. Before a request
is served, what was told (`siblings.py`: a few words of shared memory) is compared with what was heard. Only where
something is still on its way the request waits, for its notification to arrive. What is waited for was told by a
commit that stands, so it comes, whatever became of its teller. A wait that lasts (a listening connection that died
silently, say) ends by reading up from the database.

Processes of other machines (`company.py`) share no memory: while there are any, how far everything goes is looked up in
the database, once for all requests that wait at the time.

All notifications of a process come over one connection in the order of their commits. So one number per teller says how
far everything but the stream was heard: whoever notified of something that is not on the stream sends a serial after it
(`telling.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from operator import gt
from typing import Any

from prometheus_client import Counter
from twisted.internet.defer import Deferred, TimeoutError

from homeserver.needs import Protocol
from homeserver.siblings import Neighbourhood
from homeserver.stream.rounds import Rounds
from homeserver.stream.waiting import Waiting

logger = logging.getLogger(__name__)

_WAITS = Counter("lares_hearing_waits", "Requests that waited until news of another process had arrived")
_LATE = Counter("lares_hearing_late", "Waits for news that ended by reading up from the database instead")

_LOOKS = Counter("lares_hearing_looks", "Looks at the database for what processes elsewhere have told")

CHANNEL = "told"
"""Of serials: `<name of the siblings> <number> <origin> <serial>`."""

MOST_ELSEWHERE = 1000
LONGEST = 2.0
"""Seconds that a request waits for a notification before the database is asked."""


class Shown(Protocol):
    @property
    def position(self) -> int: ...

    @property
    def announcing(self) -> bool: ...

    def reached(self, position: int) -> Deferred[None]: ...


class Told(Protocol):
    """`storage.server_processes.Told` is one."""

    @property
    def position(self) -> int: ...

    @property
    def serials(self) -> Mapping[str, int]: ...


class Hearing:
    """One per process."""

    def __init__(
        self,
        *,
        reactor: Any,
        stream: Shown,
        siblings: Neighbourhood,
        read_up: Callable[[], Awaitable[None]],
        look: Callable[[], Awaitable[Told]],
        hear: Callable[[], None],
    ) -> None:
        """`read_up` brings everything in memory up to date without notifications. `look` tells how far all that is
        committed goes, processes elsewhere included. `hear` takes in the notifications that have arrived already."""
        self._reactor = reactor
        self._stream = stream
        self._siblings = siblings
        self._read_up = read_up
        self._look = look
        self._hear = hear
        self._looks = Rounds(self._look_around)
        self._heard_elsewhere: dict[str, int] = {}
        self._waiting_elsewhere: dict[str, Waiting] = {}
        self.elsewhere = False
        """Whether processes that do not share this one's memory tell anything."""
        self._readings = Rounds(self._read_all)
        self._heard = [0] * len(siblings.told)
        self._known: bytes | None = None
        """The page of which everything was heard, so that whoever finds it unchanged need not look at each number."""
        self._waiting = [Waiting() for _ in siblings.told]
        self._has_siblings = len(siblings.told) > 1
        self.has_others = self._has_siblings
        """Whether anybody else tells anything: without, nothing needs to be asked."""

    def found_elsewhere(self, found: bool) -> None:
        """Whether there are processes that do not share this one's memory."""
        self.elsewhere = found
        self.has_others = self._has_siblings or found

    def behind(self) -> bool:
        """Whether something that was told has not been heard here yet."""
        if self.elsewhere:
            return True
        siblings = self._siblings
        page = siblings.page()  # before the numbers are looked at: what is told meanwhile is another page
        if page == self._known:
            return False
        if self._is_behind():
            if self._stream.announcing:
                return True
            # What was told was notified of before, so it mostly lies in the socket, unread.
            self._hear()
            if self._is_behind():
                return True
        self._known = page
        return False

    def _is_behind(self) -> bool:
        siblings = self._siblings
        return max(siblings.shown) > self._stream.position or any(map(gt, siblings.told, self._heard))

    async def catch_up(self) -> None:
        """Return once everything that was told before the call is known. Raises DatabaseFailure if that can't be."""
        _WAITS.inc()
        shown, told = max(self._siblings.shown, default=0), tuple(self._siblings.told)
        elsewhere: Mapping[str, int] = {}
        if self.elsewhere:
            looked = await self._looks.next()
            shown, elsewhere = max(shown, looked.position), looked.serials
        try:
            if shown > self._stream.position:
                await self._stream.reached(shown).addTimeout(LONGEST, self._reactor)
            for number, serial in enumerate(told):
                if serial > self._heard[number]:
                    await self._waiting[number].until(serial).addTimeout(LONGEST, self._reactor)
            for origin, serial in elsewhere.items():
                if serial > self._heard_elsewhere.get(origin, 0):
                    waiting = self._waiting_elsewhere.setdefault(origin, Waiting())
                    await waiting.until(serial).addTimeout(LONGEST, self._reactor)
        except TimeoutError:
            _LATE.inc()
            logger.warning("news of another process is late; memory is brought up to date from the database")
            await self._readings.next()
            for origin, serial in elsewhere.items():
                self.learn(origin, serial)

    def listening(self) -> None:
        """Notifications are heard from now on; what was told before is read from the database when it is needed.

        To be called once Postgres listens, with nothing in memory that is older.
        """
        self._know(tuple(self._siblings.told))

    def heard(self, payload: str) -> None:
        """A notification of `CHANNEL`."""
        name, number, origin, serial = payload.split(" ")
        if name and name == self._siblings.name:
            self._know_of(int(number), int(serial))
        else:
            self.learn(origin, int(serial))

    def learn(self, origin: str, serial: int) -> None:
        """Everything that a process elsewhere told up to a serial is known."""
        if len(self._heard_elsewhere) >= MOST_ELSEWHERE and origin not in self._heard_elsewhere:
            self._heard_elsewhere.clear()  # of processes long gone, nearly all; what lives is read up once
        if serial > self._heard_elsewhere.get(origin, 0):
            self._heard_elsewhere[origin] = serial
            waiting = self._waiting_elsewhere.get(origin)
            if waiting is not None:
                waiting.reached(serial)
                if not waiting:
                    self._waiting_elsewhere.pop(origin, None)

    async def _look_around(self) -> Told:
        _LOOKS.inc()
        return await self._look()

    async def _read_all(self) -> None:
        told = tuple(self._siblings.told)
        await self._read_up()
        self._know(told)

    def _know(self, told: tuple[int, ...]) -> None:
        for number, serial in enumerate(told):
            self._know_of(number, serial)

    def _know_of(self, number: int, serial: int) -> None:
        if number < len(self._heard) and serial > self._heard[number]:
            self._heard[number] = serial
            self._waiting[number].reached(serial)
