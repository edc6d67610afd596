# SPDX-License-Identifier: Apache-2.0
"""The workers of a server: how many there should be, of which edition, and what is done where it is otherwise.

Owns starting, replacing and ending them, step by step: `advance` looks at every worker and does what is due, and never
waits. Before all have served once (`opened`) the end of any of them is the end of the start, told by `failure`;
afterwards one that dies is followed by another, at once and then after ever longer pauses, while the others go on.
"""

from __future__ import annotations

import logging
import secrets
import socket
from dataclasses import dataclass
from typing import Any, Final

from homeserver.app.workers.backoff import Backoff
from homeserver.app.workers.members import Edition, Member, State
from homeserver.app.workers.orders import Orders
from homeserver.app.workers.pulse import PATIENCE
from homeserver.app.workers.roster import Roster, new_roster
from homeserver.config import StartRefused
from homeserver.siblings import shared_page
from homeserver.web.bucket_table import new_bucket_table

logger = logging.getLogger(__name__)

START: Final = 120.0
"""Seconds a worker gets to be ready in."""
STOP: Final = 130.0
"""Seconds it gets to end in; its own bounds (`homeserver.app.server`) are within."""
LAST_WORDS: Final = 5.0
"""Seconds that one which hangs gets to write where it does."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the first worker found out for a new administrator."""

    nobody_yet: bool
    token: str | None


class Crew:
    """Of one server. `seats` bounds how many there can be at once, those that leave included."""

    def __init__(self, edition: Edition, *, dsn: str, seats: int, patience: float = PATIENCE) -> None:
        """A worker whose reactor has not turned for `patience` seconds is replaced."""
        self.opened = False
        """Whether all that are wanted have served at the same time."""
        self.failure: StartRefused | None = None
        """Why the start came to nothing."""
        self.welcome = Welcome(False, None)
        self._edition = edition
        self._former: Edition | None = None
        """The edition that is being replaced."""
        self._proven = False
        """Whether a worker of the edition has served."""
        self._dsn = dsn
        self._seats = seats
        self._patience = patience
        self._siblings, self._limits = shared_page(), new_bucket_table()
        self._roster_memory = new_roster(seats)
        self._roster = Roster(self._roster_memory, seats)
        self._roster.want(edition.workers)
        self._meeting = f"lares-{secrets.token_hex(16)}"
        self._members: list[Member] = []
        self._outdated: set[Member] = set()
        """Those of the former edition that still serve."""
        self._backoff = Backoff()
        self._stopping = False

    # What the loop asks.

    @property
    def gone(self) -> bool:
        """Whether there is no worker left."""
        return not self._members

    @property
    def replacing(self) -> bool:
        """Whether one edition is taking the place of another."""
        return self._former is not None

    @property
    def edition(self) -> Edition:
        """What new workers are started with."""
        return self._edition

    def controls(self) -> list[socket.socket]:
        """Connections on which a worker may tell something."""
        return [member.child.control for member in self._members if not member.child.finished]

    def wake_at(self, now: float) -> float:
        """When to advance although nothing happened."""
        times = [member.deadline for member in self._members if member.state is not State.SERVING]
        if self._wants_more():
            times.append(self._backoff.ready_at)
        return min(times, default=now + STOP)

    # What the loop has done.

    def replace(self, edition: Edition) -> None:
        """Put workers of another edition in the place of those there are, one after the other."""
        assert self.opened and not self.replacing
        self._former, self._edition, self._proven = self._edition, edition, False
        self._outdated = {member for member in self._members if member.state is not State.LEAVING}
        self._roster.want(edition.workers)

    def stop(self, now: float) -> None:
        """Have all of them end; who has been told already, hears it again."""
        self._stopping = True
        for member in self._members:
            self._roster.dismiss(member.number)
            if member.state is not State.HANGING:
                member.stop(now + STOP)

    def kill(self) -> None:
        """End what is left, at once. Blocks for a moment."""
        for member in self._members:
            member.kill()
            member.child.process.wait()
            member.child.close()

    def close(self) -> None:
        """Close the sockets of all editions."""
        for edition in (self._edition, self._former):
            if edition is not None:
                edition.listening.close()

    def advance(self, now: float) -> None:
        """One step from what there is towards what there should be."""
        for member in tuple(self._members):
            self._look_at(member, now)
        if self._stopping:
            return
        if not self.opened:
            self.opened = self._count(State.SERVING) == self._edition.workers
        if self._wants_more():
            if now >= self._backoff.ready_at:
                self._start(now)
        elif self._untried:
            return  # nobody who serves goes for an edition of which nobody has served yet
        elif self._lacking() < 0 and not self._count(State.STARTING):
            self._release(now)
        elif self._former is not None and not self._outdated:
            self._complete(self._former)

    # Each of them.

    def _look_at(self, member: Member, now: float) -> None:
        if member.listen():
            self._serves(member)
        end = member.end
        if end is not None:
            member.listen()  # it may have said why
            self._ended(member, end, now)
        elif member.state is not State.SERVING and now >= member.deadline:
            logger.error("a worker takes too long; it is killed", extra=_fields(member))
            member.deadline = now + STOP
            member.kill()
        elif member.state is State.SERVING and member.pulse.stopped(self._roster.beats(member.number), now):
            logger.critical(
                "a worker has done nothing for %d s; it is made to end, and to write here what it was in the middle of",
                self._patience,
                extra=_fields(member),
            )
            self._roster.dismiss(member.number)
            member.abort(now + LAST_WORDS)

    def _serves(self, member: Member) -> None:
        self._roster.admit(member.number)
        if member.edition is self._edition:
            self._proven = True
        if member.told.get("welcomes"):
            self.welcome = Welcome(member.told["nobody_yet"], member.told["token"])

    def _ended(self, member: Member, end: str, now: float) -> None:
        was_serving = member.state in {State.SERVING, State.HANGING}
        left = member.state is State.LEAVING
        self._members.remove(member)
        self._outdated.discard(member)
        self._roster.clear(member.number)
        member.child.close()
        if left or self._stopping:
            return
        why = member.refused or f"it ended {end}"
        if not self.opened:
            self.failure = self.failure or StartRefused(
                member.refused or f"a worker ended {end} before the server was ready; the log above says why"
            )
        elif (
            not was_serving
            and member.edition is self._edition
            and self._former is not None
            and not self._proven
        ):
            self._give_up(self._former, why)
        else:
            self._roster.count_restart()
            pause = self._backoff.died(now, member.started)
            logger.critical(
                "a worker died: %s; %s",
                why,
                f"another is started in {pause:.0f} s" if pause else "another is started",
                extra=_fields(member),
            )

    # All of them.

    def _count(self, state: State) -> int:
        return sum(member.state is state for member in self._members)

    @property
    def _untried(self) -> bool:
        """Whether an edition is to take the place of another, and no worker of it has served."""
        return self._former is not None and not self._proven

    def _lacking(self) -> int:
        """How many are missing; below 0, how many there are too many."""
        return self._edition.workers - sum(member.state is not State.LEAVING for member in self._members)

    def _wants_more(self) -> bool:
        """Whether one is to be started: there are too few, or the next of those outdated is to be replaced.

        The first of an edition is, even where there are to be fewer than there were.
        """
        if self._stopping or self.failure is not None or len(self._members) >= self._seats:
            return False
        lacking = self._lacking()
        next_one = lacking == 0 or self._untried
        return lacking > 0 or (next_one and bool(self._outdated) and not self._count(State.STARTING))

    def _start(self, now: float) -> None:
        """As many as are missing, or one for one that is outdated."""
        for _ in range(max(1, self._lacking())):
            if len(self._members) >= self._seats:
                return
            number = min(set(range(self._seats)) - {member.number for member in self._members})
            try:
                member = Member(
                    self._orders(number), self._edition, now=now, longest=START, patience=self._patience
                )
            except OSError as error:  # no memory, no process, no Python: those who serve go on
                self._not_started(error, now)
                return
            self._roster.seat(number, member.pid)
            self._members.append(member)

    def _not_started(self, error: OSError, now: float) -> None:
        if not self.opened:
            self.failure = self.failure or StartRefused(f"a worker cannot be started: {error}")
        elif self._former is not None and not self._proven:
            self._give_up(self._former, f"no process can be started: {error}")
        else:
            pause = self._backoff.died(now, started=now)
            logger.critical("a worker cannot be started: %s; it is tried again in %.0f s", error, pause)

    def _orders(self, number: int) -> Orders:
        edition = self._edition
        return Orders(
            number=number,
            seats=self._seats,
            config=edition.config,
            dsn=self._dsn,
            sockets=[opened.fileno() for opened in edition.listening.sockets],
            siblings=self._siblings,
            roster=self._roster_memory,
            limits=self._limits,
            meeting=self._meeting,
            welcomes=not self.opened and not self._members,
        )

    def _release(self, now: float) -> None:
        """Let go of one that is too many, an outdated one if there is any."""
        serving = [member for member in self._members if member.state is State.SERVING]
        outdated = [member for member in serving if member in self._outdated]
        for member in (outdated or serving)[-1:]:
            self._outdated.discard(member)
            self._roster.dismiss(member.number)
            member.drain(now + STOP)

    def _complete(self, former: Edition) -> None:
        self._former = None
        former.listening.close(kept=self._edition.listening)
        logger.info("all workers have been replaced", extra={"fields": {"workers": self._edition.workers}})

    def _give_up(self, former: Edition, why: str) -> None:
        """The first worker of an edition came to nothing: what served goes on."""
        self._edition.listening.close(kept=former.listening)
        self._edition, self._former, self._proven = former, None, True
        self._outdated.clear()
        self._roster.want(former.workers)
        others = [member for member in self._members if member.state is State.STARTING]
        for member in others:
            member.kill()
            member.state = State.LEAVING
        logger.error("SIGHUP: the workers stay as they are, since a new one could not start: %s", why)


def _fields(member: Member) -> dict[str, Any]:
    return {"fields": {"worker": member.number, "pid": member.pid}}
