# SPDX-License-Identifier: Apache-2.0
"""The reactor of a serving process goes on, whatever those do that it tells of events."""

import socket
from typing import Any

from homeserver.app.reactor import shorter_reactor


class Waiting:
    """For bytes on a socket; `then` happens when they come."""

    def __init__(self, end: socket.socket, then: Any) -> None:
        self._end = end
        self._then = then
        self.lost: list[Any] = []

    def fileno(self) -> int:
        return self._end.fileno()

    def logPrefix(self) -> str:
        raise AssertionError("nobody asks for this")

    def doRead(self) -> Any:
        return self._then()

    def readConnectionLost(self, reason: Any) -> None:
        self.lost.append(reason)

    def connectionLost(self, reason: Any) -> None:
        self.lost.append(reason)


def test_each_is_told_of_its_events_and_a_failure_ends_only_whose_it_is() -> None:
    reactor, pairs, heard = shorter_reactor(), [socket.socketpair() for _ in range(2)], list[bytes]()

    def fail() -> None:
        raise RuntimeError("a defect")

    good = Waiting(pairs[0][0], lambda: heard.append(pairs[0][0].recv(100)))
    bad = Waiting(pairs[1][0], fail)
    for waiting in (bad, good):
        reactor.addReader(waiting)
    for _, other in pairs:
        other.send(b"x")
    for _ in range(3):
        reactor.doIteration(0.0)
    assert heard == [b"x"]
    assert [len(waiting.lost) for waiting in (good, bad)] == [0, 1]
    assert [waiting for waiting in reactor.removeAll() if waiting in (good, bad)] == [good]
    for end in (end for pair in pairs for end in pair):
        end.close()
