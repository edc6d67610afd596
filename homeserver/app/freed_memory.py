# SPDX-License-Identifier: Apache-2.0
"""Memory that was freed goes back to the system.

Owns asking the C library for it, once a minute and when the start is over, and how the library lays memory out. By
itself it gives back what lies at the end of its heap only: holes in the midst, which requests of all sizes leave, stay
resident, and in a server that is busy they grow for as long as it runs. Where the library is another than glibc,
nothing is done.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool

INTERVAL: Final = 60.0
"""Seconds. It takes milliseconds, in a thread: only who asks the library for memory just then waits for it."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""As malloc.h has them."""
_LARGE: Final = 256 * 1024
_SPARE: Final = 1024 * 1024


def use_one_heap() -> None:
    """Have all threads share one heap, and large blocks lie outside of it. Before the first thread.

    By itself glibc gives each thread a heap of its own, and what one of them reads from the database and a cache keeps
    for long leaves holes in every one. Python's threads hold the interpreter's lock for nearly all they allocate, so
    there is next to nothing to gain. And each large block that is freed has glibc put larger ones into the heap from
    then on, for good.
    """
    _ask("mallopt", _M_ARENA_MAX, 1)
    _ask("mallopt", _M_MMAP_THRESHOLD, _LARGE)
    _ask("mallopt", _M_TRIM_THRESHOLD, _SPARE)


def give_back() -> bool:
    """Give it back; whether there was any. Blocks for some milliseconds, without the interpreter's lock."""
    return bool(_ask("malloc_trim", 0))


class FreedMemory:
    """Gives it back again and again."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._calling = LoopingCall(self._in_thread)
        self._calling.clock = reactor

    def start(self) -> None:
        """Begin, with what the start left."""
        if _found("malloc_trim") is not None:
            give_back()
            self._calling.start(INTERVAL, now=False)

    def stop(self) -> None:
        """Nothing more is given back."""
        if self._calling.running:
            self._calling.stop()

    def _in_thread(self) -> Deferred[bool]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), give_back)


def _ask(name: str, *numbers: int) -> int:
    """What a function of glibc says; 0 where there is none of that name."""
    function = _found(name)
    return 0 if function is None else function(*numbers)


def _found(name: str) -> Callable[..., int] | None:
    try:
        function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    except OSError:
        return None
    return function
