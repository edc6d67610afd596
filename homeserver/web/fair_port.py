# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 (Twisted's names)
"""A listening port that several processes share, each taking its share of the connections.

Owns when a connection is accepted. All processes wait on one socket, so that none is lost while any of them lives; the
system wakes every one that is idle, and whoever comes first has the connection. Left at that, one process can end up
with most of those that stay open. So one is accepted per turn, and a process that has more than its share steps back
for a moment in which the others, awake already, take what has come. If nobody did, it takes it after all, more each
time, so that others that hang hold nobody up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from twisted.internet.tcp import Port

PAUSE: Final = 0.01
"""Seconds of stepping back."""
_MOST_AT_ONCE: Final = 64


class Crowd(Protocol):
    """The processes that accept on the same sockets."""

    def others(self) -> Sequence[int]:
        """How many connections each of the others has that accept at present."""

    def tell(self, connections: int) -> None:
        """This process has so many."""

    def accepted(self, count: int) -> None:
        """This process accepted so many more."""


class Held(Protocol):
    """Tells how many connections this process has, on all of its ports."""

    def __call__(self) -> int: ...


def is_ahead(own: int, others: Sequence[int]) -> bool:
    """Whether a process with `own` connections has more than its share, beside some slack."""
    if not others:
        return False
    fair = (own + sum(others)) / (len(others) + 1)
    return own > fair * 1.05 + 1


class FairPort(Port):  # type: ignore[misc, unused-ignore]
    """See the module. Made by `adopt`."""

    _crowd: Crowd
    _held: Held
    _burst = 1
    _later: Any = None

    @classmethod
    def adopt(
        cls, reactor: Any, descriptor: int, family: int, factory: Any, *, crowd: Crowd, held: Held
    ) -> FairPort:
        """Accept on a duplicate of a listening socket that does not block. `held` counts what `factory` built, too."""
        port: FairPort = cls._fromListeningDescriptor(reactor, descriptor, family, factory)  # type: ignore[no-untyped-call]
        port._crowd = crowd
        port._held = held
        port.startListening()
        return port

    def doRead(self) -> None:
        """Somebody connects."""
        if self.disconnecting:  # closed in this very turn: another process has it
            return
        own = self._held()
        if is_ahead(own, self._crowd.others()):
            self._crowd.tell(own)
            self._step_back()
            return
        self._burst = 1
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
        if self._accept(self._burst):  # nobody else did
            self._burst = min(2 * self._burst, _MOST_AT_ONCE)
        else:
            self._burst = 1
        self.startReading()  # type: ignore[no-untyped-call]
