# SPDX-License-Identifier: Apache-2.0
"""How many connections one address may have, and how many bytes may wait for all who do not read them.

Owns these two bounds on a site's connections, for everything that may fill them: responses, and updates of WebSockets.
One connection is bounded by what it is sent next, which is not made before it has read the last; the many together
are bounded here.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, Protocol

from homeserver.web.addresses import ProxyTrust, counted_as

log = logging.getLogger(__name__)

SHARE: Final = 4
"""One part of how many of the connections one address may have; but proxies, which speak for many, and this machine."""
MOST_UNREAD: Final = 256 * 2**20
"""Bytes that wait to be read by the clients of a listener."""


class Connected(Protocol):
    """A connection; `transport` is Twisted's."""

    transport: Any


class Crowding:
    """Of one site. What `has_room` is asked, and `came` and `left` are told, are addresses of the other ends."""

    def __init__(self, trust: ProxyTrust, most: int) -> None:
        self._trust = trust
        self._most = most
        self._share = max(1, most // SHARE)
        self._of: Counter[str] = Counter()

    def has_room(self, address: str, count: int) -> bool:
        """Whether one more may come from there, `count` being here."""
        if count >= self._most:
            return False
        return self._of[counted_as(address)] < self._share or self._trust.is_trusted(address)

    def came(self, address: str) -> None:
        """One is here."""
        self._of[counted_as(address)] += 1

    def left(self, address: str) -> None:
        """One is gone."""
        key = counted_as(address)
        self._of[key] -= 1
        if not self._of[key]:
            del self._of[key]


def shed(connections: Iterable[Connected], most: int = MOST_UNREAD) -> None:
    """Cut off those who let most bytes wait, until what waits for the others is no more than `most`."""
    waiting = [(unread, each) for each in connections if (unread := unread_bytes(each.transport))]
    total = sum(unread for unread, _ in waiting)
    if total <= most:
        return
    count = 0
    for unread, each in sorted(waiting, key=lambda found: found[0], reverse=True):
        if total <= most:
            break
        each.transport.abortConnection()
        total -= unread
        count += 1
    log.warning("%d connections did not read what they were sent, and were cut off", count)


def unread_bytes(transport: Any) -> int:
    """Bytes that were written to a connection and that the system did not take yet, before and after encryption."""
    before = sum(map(len, getattr(transport, "_appSendBuffer", ())))
    below = getattr(transport, "transport", None) or transport
    # Twisted counts them, and does not tell.
    after: int = len(below.dataBuffer) - below.offset + below._tempDataLen
    return before + after
