# SPDX-License-Identifier: Apache-2.0
"""What was freed is given back to the system, also where something lies behind it that is still in use."""

from __future__ import annotations

from twisted.internet.task import Clock

from homeserver.app.freed_memory import INTERVAL, FreedMemory, give_back
from homeserver.app.overload import resident_bytes

BLOCK, BLOCKS = 64 * 1024, 500


class ThreadPool:
    """Does at once what it is given."""

    def callInThreadWithCallback(self, told, function, *arguments, **named):  # type: ignore[no-untyped-def]
        told(True, function(*arguments, **named))


class Reactor(Clock):
    def getThreadPool(self) -> ThreadPool:
        return ThreadPool()

    def callFromThread(self, function, *arguments, **named):  # type: ignore[no-untyped-def]
        function(*arguments, **named)


def holes() -> list[bytes]:
    """Blocks freed between blocks that are not: some of thirty MiB."""
    blocks = [bytes([1]) * BLOCK for _ in range(BLOCKS)]
    return blocks[::2]


def test_holes_are_given_back() -> None:
    give_back()
    kept = holes()
    held = resident_bytes()
    assert give_back()
    assert held - resident_bytes() > BLOCK * BLOCKS // 4
    assert len(kept) == BLOCKS // 2


def test_it_is_given_back_once_a_minute_until_the_stop() -> None:
    reactor = Reactor()
    freed = FreedMemory(reactor)
    freed.start()
    kept = holes()
    held = resident_bytes()
    reactor.advance(INTERVAL)
    assert held - resident_bytes() > BLOCK * BLOCKS // 4
    freed.stop()
    assert reactor.getDelayedCalls() == []
    assert len(kept) == BLOCKS // 2
