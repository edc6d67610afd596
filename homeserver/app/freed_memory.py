# SPDX-License-Identifier: Apache-2.0
"""Memory that was freed goes back to the system.

Owns asking the C library for it, once a minute and when the start is over. By itself the library gives back what lies
at the end of its heap only: holes in the midst, which requests of all sizes leave, stay resident, and in a server that
is busy they grow for as long as it runs. Where the library is another than glibc, nothing is done.
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


def give_back() -> bool:
    """Give it back; whether there was any. Blocks for some milliseconds, without the interpreter's lock."""
    trim = _malloc_trim()
    return trim is not None and trim(0) != 0


class FreedMemory:
    """Gives it back again and again."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._calling = LoopingCall(self._in_thread)
        self._calling.clock = reactor

    def start(self) -> None:
        """Begin, with what the start left."""
        if _malloc_trim() is not None:
            give_back()
            self._calling.start(INTERVAL, now=False)

    def stop(self) -> None:
        """Nothing more is given back."""
        if self._calling.running:
            self._calling.stop()

    def _in_thread(self) -> Deferred[bool]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), give_back)


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except OSError:
        return None
    return trim
