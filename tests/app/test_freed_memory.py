# SPDX-License-Identifier: Apache-2.0
"""What was freed is given back to the system, also where something lies behind it that is still in use."""

from __future__ import annotations

import re
import subprocess
import sys

from twisted.internet.task import Clock

from homeserver.app.freed_memory import INTERVAL, FreedMemory, give_back
from homeserver.app.overload import resident_bytes

BLOCK, BLOCKS = 64 * 1024, 500


HEAPS = """
import ctypes
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from homeserver.app.freed_memory import use_one_heap

libc = ctypes.CDLL(None)
use_one_heap()
together = Barrier(4)

def allocate(_):
    together.wait(60)
    return [bytes(5000) for _ in range(100)]

with ThreadPoolExecutor(4) as threads:
    kept = list(threads.map(allocate, range(4)))
    stdout = ctypes.c_void_p.in_dll(libc, "stdout")
    libc.malloc_info(0, stdout)
    large = bytes(10**6)  # once freed, blocks of its size would be given from the heap
    del large
    large = bytes(10**6)
    libc.malloc_info(0, stdout)
    libc.fflush(None)
"""


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


def test_threads_share_one_heap_and_large_blocks_lie_outside() -> None:
    """In a process of its own, as it is for good."""
    asked = subprocess.run([sys.executable, "-c", HEAPS], capture_output=True, check=True, text=True)
    before, after = asked.stdout.split("</malloc>")[:2]
    assert before.count("<heap nr=") == after.count("<heap nr=") == 1
    outside = [int(re.findall(r'type="mmap" count="\d+" size="(\d+)"', each)[-1]) for each in (before, after)]
    assert outside[1] - outside[0] >= 10**6
