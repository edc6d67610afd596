# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 (Twisted's names)
"""A listening port that several processes share, each taking its share of the connections.

Owns when a connection is accepted. All processes wait on one socket, so that none is lost while any of them lives; the
system wakes every one that is idle, and whoever comes first has the connection. Left at that, one process can end up
with most of those that stay open. So one is accepted per turn, and a process that has more than its share steps back
for a moment in which the others, awake already, take what has come. If nobody did, it takes it after all, more each
time, so that others that hang hold nobody up.

A process has more than its share of all connections, or of those of a burst: what is opened at one time is likely to
be busy at one time, which the idle ones that were there before do not make up for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Final

from twisted.internet.tcp import Port

from homeserver.needs import Protocol

PAUSE: Final = 0.01
"""Seconds of stepping back."""
_MOST_AT_ONCE: Final = 64
_PATIENCE: Final = 4
"""Times in a row that one is taken after all, before it is more at once: the others may only be busy."""
QUIET: Final = 1.0
"""Seconds without anybody connecting that end a burst."""
LONGEST_BURST: Final = 10.0
"""Seconds after which it counts as another."""


class Crowd(Protocol):
    """The processes that accept on the same sockets."""

    def others(self) -> Sequence[int]:
        """How many connections each of the others has that accept at present."""

    def taken(self) -> tuple[int, Mapping[int, int]]:
        """How many connections this process has accepted in all, and each of the others, by number."""

    def tell(self, connections: int) -> None:
        """This process has so many."""

    def accepted(self, count: int) -> None:
        """This process accepted so many more."""


class Held(Protocol):
    """Tells how many connections this process has, on all of its ports."""

    def __call__(self) -> int: ...


def is_ahead(own: int, others: Sequence[int]) -> bool:
    """Whether a process with `own` connections has more than its share.

    Beside much slack, which is for what a burst leaves behind when it is over: most of it is closed again.
    """
    if not others:
        return False
    fair = (own + sum(others)) / (len(others) + 1)
    return own > fair * 1.2 + 1


def is_behind(own: int, others: Sequence[int]) -> bool:
    """Whether it has less than its share, beside as much slack."""
    fair = (own + sum(others)) / (len(others) + 1)
    return own < fair * 0.8 - 1


def at_once(unaided: int) -> int:
    """How many are taken after a step back, if so many steps back before it were for nothing."""
    return min(1 << min(max(0, unaided - _PATIENCE + 1), 16), _MOST_AT_ONCE)


class Burst:
    """What was accepted since somebody connected after nobody had for a while, as one process knows it."""

    def __init__(self) -> None:
        self._own = 0
        self._others: Mapping[int, int] = {}
        """What had been accepted when it began."""
        self._began = self._latest = float("-inf")

    def is_ahead(self, own: int, others: Mapping[int, int], now: float) -> bool:
        """Somebody connects: whether this process, which accepted `own` in all, has taken its share of the burst."""
        if (
            now - self._latest > QUIET
            or now - self._began > LONGEST_BURST
            or own < self._own
            or any(count < self._others.get(number, count + 1) for number, count in others.items())
        ):
            self._own, self._others, self._began = own, dict(others), now
        self._latest = now
        if not others:
            return False
        taken = own - self._own
        of_others = sum(count - self._others[number] for number, count in others.items())
        return taken > (taken + of_others) / (len(others) + 1) + 0.5


class FairPort(Port):  # type: ignore[misc, unused-ignore]
    """See the module. Made by `adopt`."""

    _crowd: Crowd
    _held: Held
    _burst: Burst
    _unaided = 0
    _later: Any = None

    @classmethod
    def adopt(
        cls, reactor: Any, descriptor: int, family: int, factory: Any, *, crowd: Crowd, held: Held
    ) -> FairPort:
        """Accept on a duplicate of a listening socket that does not block. `held` counts what `factory` built, too."""
        port: FairPort = cls._fromListeningDescriptor(reactor, descriptor, family, factory)  # type: ignore[no-untyped-call]
        port._crowd = crowd
        port._held = held
        port._burst = Burst()
        port.startListening()
        return port

    def doRead(self) -> None:
        """Somebody connects."""
        if self.disconnecting:  # closed in this very turn: another process has it
            return
        own, others = self._held(), self._crowd.others()
        ahead_of_burst = self._burst.is_ahead(*self._crowd.taken(), monotonic())
        if is_ahead(own, others) or (ahead_of_burst and not is_behind(own, others)):
            self._crowd.tell(own)
            self._step_back()
            return
        self._unaided = 0
        self._accept(1)

    def stopListening(self, *because: Any) -> Any:
        """As the port's; what waits is for others."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        return super().stopListening(*because)  # type: ignore[no-untyped-call]

    def _accept(self, most: int) -> int:
        before = self.sessionno
        self.numberAccepts = most
        super().doRead()  # type: ignore[no-untyped-call]
        taken = self.sessionno - before
        if taken:
            self._crowd.accepted(taken)
        self._crowd.tell(self._held())
        return taken

    def _step_back(self) -> None:
        self.stopReading()  # type: ignore[no-untyped-call]
        self._later = self.reactor.callLater(PAUSE, self._come_back)

    def _come_back(self) -> None:
        self._later = None
        if self._accept(at_once(self._unaided)):  # nobody else did
            self._unaided += 1
        else:
            self._unaided = 0
        self.startReading()  # type: ignore[no-untyped-call]
