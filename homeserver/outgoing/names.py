# SPDX-License-Identifier: Apache-2.0
"""From a host name to its addresses.

Owns the look-ups by the system's resolver, so that /etc/hosts, search domains and whatever else is set up count, and a
small cache in front of it. Does not own which addresses may be connected to (`address_policy`).

`getaddrinfo` blocks for as long as a dead name server lets it and cannot be interrupted. Each look-up has a thread of
its own, which nobody waits for at the end, and their number is bounded: the reactor's pool is for work that ends soon,
and a thousand dead domains must not stop it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from socket import AI_ADDRCONFIG, IPPROTO_TCP, SOCK_STREAM, getaddrinfo
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredSemaphore

from homeserver.needs import Protocol
from homeserver.outgoing.errors import NameNotFound, Overloaded
from homeserver.outgoing.single_flight import SingleFlight
from homeserver.outgoing.targets import is_address

KEPT_SECONDS: Final = 60.0
FAILURE_KEPT_SECONDS: Final = 10.0
MAX_KEPT: Final = 10_000
MAX_THREADS: Final = 32
MAX_WAITING: Final = 2_000
#: Of one name; more are left out.
MAX_ADDRESSES: Final = 16


class AddressResolver(Protocol):
    """What the client needs of name resolution."""

    async def addresses(self, host: str) -> Sequence[str]:
        """The addresses of a DNS name, best first, without zones. Raises NameNotFound, Overloaded."""
        ...


class SystemResolver:
    """Names by the system's resolver, kept for a minute."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._kept: OrderedDict[str, tuple[float, tuple[str, ...]]] = OrderedDict()
        self._under_way: SingleFlight[str, tuple[str, ...]] = SingleFlight(MAX_WAITING)
        self._threads = DeferredSemaphore(MAX_THREADS)

    async def addresses(self, host: str) -> Sequence[str]:
        """The addresses of a DNS name, in the order the system prefers. Raises NameNotFound, Overloaded."""
        kept = self._kept.get(host)
        if kept is not None and kept[0] > self._reactor.seconds():
            found = kept[1]
        else:
            found = await self._under_way.do(host, lambda: self._look_up(host))
        if not found:
            raise NameNotFound(f"the name {host} has no address")
        return found

    async def _look_up(self, host: str) -> tuple[str, ...]:
        await self._threads.acquire()
        try:
            answer: Deferred[tuple[str, ...]] = Deferred()
            threading.Thread(
                target=self._ask, args=(host, answer), name=f"resolve {host}", daemon=True
            ).start()
            found = await answer
        except RuntimeError as error:
            raise Overloaded("no thread can be started to look a name up") from error
        finally:
            self._threads.release()
        period = KEPT_SECONDS if found else FAILURE_KEPT_SECONDS
        self._kept[host] = (self._reactor.seconds() + period, found)
        self._kept.move_to_end(host)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return found

    def _ask(self, host: str, answer: Deferred[tuple[str, ...]]) -> None:
        """In a thread of its own, whose end must be heard of, whatever it is."""
        found: tuple[str, ...] = ()
        try:
            found = ask_system(host)
        finally:
            self._reactor.callFromThread(answer.callback, found)


def ask_system(host: str) -> tuple[str, ...]:
    """Blocks. The addresses of a name, none if there are none or nobody says so."""
    try:
        found = getaddrinfo(host, None, type=SOCK_STREAM, proto=IPPROTO_TCP, flags=AI_ADDRCONFIG)
    except (OSError, ValueError):
        return ()
    addresses = (str(each[4][0]) for each in found)
    # A zone belongs to a link of this machine; none is reachable by a name of somebody else's.
    distinct = dict.fromkeys(address for address in addresses if is_address(address) and "%" not in address)
    return tuple(distinct)[:MAX_ADDRESSES]
