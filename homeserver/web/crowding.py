# SPDX-License-Identifier: Apache-2.0
"""How many connections one address may have, how many bytes may wait for all who do not read them, and who gives way
where more bodies are coming in than may be held.

Owns these bounds on a site's connections, for everything that may fill them: requests, responses, and updates of
WebSockets. One connection is bounded by what it is sent next, which is not made before it has read the last, and by
the limit of its request; the many together are bounded here.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from homeserver.needs import Protocol
from homeserver.web.addresses import ProxyTrust, counted_as

log = logging.getLogger(__name__)

SHARE: Final = 4
"""One part of how many of the connections one address may have; but proxies, which speak for many, and this machine."""
MOST_UNREAD: Final = 256 * 2**20
"""Bytes that wait to be read by the clients of a listener."""


HOARD: Final = 16 * 2**20
"""Bytes of bodies that are coming in, from one address, which is left to have so many."""


class Arriving(Protocol):
    """A request whose body is coming in."""

    @property
    def received(self) -> int: ...


A = TypeVar("A", bound=Arriving)


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


def giving_way(bodies: Iterable[tuple[str, A]], count: int) -> list[A]:
    """Which bodies are given up for `count` bytes of others: the largest of the address that has most coming in.

    `bodies`: each with its address. What comes in may take minutes, and nobody need say who they are for that: else a
    single machine could have all others refused.
    """
    held: Counter[str] = Counter()
    of: dict[str, list[A]] = {}
    for address, body in bodies:
        key = counted_as(address)
        held[key] += body.received
        of.setdefault(key, []).append(body)
    if not held:
        return []
    ((greediest, left),) = held.most_common(1)
    found: list[A] = []
    for body in sorted(of[greediest], key=lambda each: each.received, reverse=True):
        if left <= HOARD or count <= 0:
            break
        found.append(body)
        left -= body.received
        count -= body.received
    return found


def unread_bytes(transport: Any) -> int:
    """Bytes that were written to a connection and that the system did not take yet, before and after encryption."""
    before = sum(map(len, getattr(transport, "_appSendBuffer", ())))
    below = getattr(transport, "transport", None) or transport
    # Twisted counts them, and does not tell.
    after: int = len(below.dataBuffer) - below.offset + below._tempDataLen
    return before + after
