# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802, N815 (Twisted's names)
"""The reactor of a serving process: Twisted's for epoll, with a shorter way from an event to who waits for it.

Owns that way. Twisted makes a logging context around each event, with the name of the connection for what is logged
within; that is a tenth of what a small request costs, and what is logged here carries the request's id instead. Where
there is no epoll, Twisted's own choice serves.
"""

import sys
from typing import Any

from twisted.internet.main import installReactor
from twisted.python import log


def the_reactor() -> Any:
    """The reactor of this process, installed if there is none yet."""
    if "twisted.internet.reactor" not in sys.modules and sys.platform == "linux":
        installReactor(shorter_reactor())  # type: ignore[no-untyped-call]
    from twisted.internet import reactor

    return reactor


def shorter_reactor() -> Any:
    """One that is not installed. For Linux."""
    from twisted.internet.epollreactor import EPollReactor

    class Reactor(EPollReactor):
        """See the module."""

        def doPoll(self, timeout: float | None) -> None:
            """Wait for events up to `timeout` seconds, and tell who waits for them."""
            selectables = self._selectables
            for descriptor, event in self._poller.poll(-1 if timeout is None else timeout, len(selectables)):
                selectable = selectables.get(descriptor)
                if selectable is not None:  # else an event before this one ended it
                    try:
                        self._doReadOrWrite(selectable, descriptor, event)  # type: ignore[no-untyped-call]
                    except Exception:
                        log.err()  # type: ignore[no-untyped-call]

        doIteration = doPoll

    return Reactor()  # type: ignore[no-untyped-call]
