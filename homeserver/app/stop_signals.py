# SPDX-License-Identifier: Apache-2.0
"""What SIGTERM and Ctrl-C do: end the start-up if it still runs, else begin the clean stop, once.

Owns the two signals from the first moment of `serve` on. Twisted's own handlers come only with the running reactor, so
a signal before that would end the process as it stands, and a second one during the stop would raise in the reactor.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, Final

from twisted.internet.error import ReactorNotRunning

_NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)


class StopRequested(BaseException):
    """A signal came while the start-up blocked. Like KeyboardInterrupt, no error and not to be handled as one."""


class StopSignals:
    """The handlers of one process; call from the main thread."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def install(self) -> None:
        """Take the signals. One that is ignored stays so, as for a job of a shell in the background."""
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._received)

    def ignore(self) -> None:
        """The stop has begun and is bounded: a further signal changes nothing."""
        for number in _NUMBERS:
            signal.signal(number, signal.SIG_IGN)

    def _received(self, _number: int, _frame: FrameType | None) -> None:
        self.ignore()
        if not self._reactor.running:
            raise StopRequested
        self._reactor.callFromThread(self._stop)  # which also wakes a reactor that sleeps

    def _stop(self) -> None:
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            return  # the server was stopping by itself
