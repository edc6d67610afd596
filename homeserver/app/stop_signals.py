# SPDX-License-Identifier: Apache-2.0
"""What SIGTERM and Ctrl-C do: end the start-up if it still runs, else begin the clean stop, once.

Owns the two signals from the first moment of `serve` on. Twisted's own handlers come only with the running reactor, so
a signal before that would end the process as it stands, and a second one during the stop would raise in the reactor.
Owns SIGHUP, too, where there is one process: it has nobody to hand its connections to, so nothing is read again.
"""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Any, Final

logger = logging.getLogger(__name__)

_NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)


class StopRequested(BaseException):
    """A signal came before the reactor ran. Like KeyboardInterrupt, no error and not to be handled as one."""


class StopSignals:
    """The handlers of one process; call from the main thread."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._requested = False

    def install(self) -> None:
        """Take the signals. One that is ignored stays so, as for a job of a shell in the background."""
        for number in _NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._received)

    def explain_hangup(self) -> None:
        """From now on SIGHUP, which would end the process, is answered by a line in the log."""
        signal.signal(signal.SIGHUP, self._hung_up)

    def ignore(self) -> None:
        """The stop has begun and is bounded: a further signal changes nothing."""
        for number in _NUMBERS:
            signal.signal(number, signal.SIG_IGN)

    def check(self) -> None:
        """Raise StopRequested if a signal came. Whatever blocks during start-up calls this now and then.

        The handler itself raises nothing: Python may run it around a fork or in a finalizer, where an exception is
        printed and lost.
        """
        if self._requested:
            raise StopRequested

    def _received(self, _number: int, _frame: FrameType | None) -> None:
        self._requested = True
        # Not `ignore`: of two signals that come together the second would find itself ignored, and Python complains.
        for number in _NUMBERS:
            signal.signal(number, _nothing)
        if self._reactor.running:
            self._reactor.callFromThread(self._stop)  # which also wakes a reactor that sleeps

    def _hung_up(self, _number: int, _frame: FrameType | None) -> None:
        if self._reactor.running:
            self._reactor.callFromThread(
                logger.warning,
                "SIGHUP: the configuration was not read again; with workers: 1 that takes a restart, with more "
                "it is done without one",
            )

    def _stop(self) -> None:
        from twisted.internet.error import ReactorNotRunning

        try:
            self._reactor.stop()
        except ReactorNotRunning:
            return  # the server was stopping by itself


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """A signal that came again."""
