# SPDX-License-Identifier: Apache-2.0
"""SRV records, from the name servers of this machine.

Owns the look-ups and a bounded cache of their answers for as long as their TTL says. Does not own the order the records
are tried in, nor the addresses of the hosts they name, which are looked up like any other host's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from twisted.internet.defer import DeferredSemaphore

from federation.discovery.name_ports import NamePorts
from federation.discovery.steps import MAX_TARGETS, Service, SrvRecord, is_dns_name
from homeserver.outgoing.single_flight import SingleFlight

if TYPE_CHECKING:
    from twisted.names.dns import Record_SRV

#: Seconds to wait for each name server, in two rounds.
TIMEOUTS: Final = (1, 3)
SHORTEST_SECONDS: Final = 30.0
LONGEST_SECONDS: Final = 24 * 3600.0
#: How long it is kept that there is no record, and that nobody could tell.
NOTHING_SECONDS: Final = 900.0
FAILURE_SECONDS: Final = 60.0
#: How long records outlive their TTL while no name server answers.
STALE_SECONDS: Final = 24 * 3600.0
#: Names and records.
MAX_KEPT: Final = 20_000
MAX_AT_ONCE: Final = 64
MAX_WAITING: Final = 2_000
MAX_SERVERS: Final = 3
RESOLV_CONF: Final = Path("/etc/resolv.conf")

NameServer = tuple[str, int]


class Srv(Struct, frozen=True):
    """The records of a name, unordered. `problem`: nobody could tell, so that there may be others."""

    records: tuple[SrvRecord, ...] = ()
    problem: str | None = None


class _Kept(Struct, frozen=True):
    answer: Srv
    until: float
    stale_until: float


class SrvLookup:
    """SRV records by service and host. `name_servers` gives addresses and ports of the servers to ask."""

    def __init__(
        self,
        reactor: Any,
        *,
        name_servers: Callable[[], Sequence[NameServer]] | None = None,
        timeouts: Sequence[int] = TIMEOUTS,
    ) -> None:
        self._reactor = reactor
        self._name_servers = name_servers or system_name_servers
        self._timeouts = tuple(timeouts)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._size = 0
        """Names and records kept."""
        self._under_way: SingleFlight[str, Srv] = SingleFlight(MAX_WAITING)
        self._at_once = DeferredSemaphore(MAX_AT_ONCE)

    async def look_up(self, service: Service, hostname: str) -> Srv:
        """The records of `<service>.<hostname>`. Raises Overloaded only."""
        name = f"{service.value}.{hostname}"
        if not is_dns_name(name):
            return Srv()
        kept = self._kept.get(name)
        if kept is not None and kept.until > self._reactor.seconds():
            self._kept.move_to_end(name)
            return kept.answer
        return await self._under_way.do(name, lambda: self._refresh(name))

    async def _refresh(self, name: str) -> Srv:
        await self._at_once.acquire()
        try:
            answer, period = await self._ask(name)
        finally:
            self._at_once.release()
        now = self._reactor.seconds()
        before = self._drop(name)
        stale_until = now + period + STALE_SECONDS
        if answer.problem is not None:
            stale_until = now
            if before is not None and before.stale_until > now:
                answer, stale_until = Srv(before.answer.records, answer.problem), before.stale_until
        self._kept[name] = _Kept(answer, now + period, stale_until)
        self._size += 1 + len(answer.records)
        while self._size > MAX_KEPT:
            self._drop(next(iter(self._kept)))
        return answer

    def _drop(self, name: str) -> _Kept | None:
        """What was kept of the name and is no longer."""
        kept = self._kept.pop(name, None)
        if kept is not None:
            self._size -= 1 + len(kept.answer.records)
        return kept

    async def _ask(self, name: str) -> tuple[Srv, float]:
        """The answer, and for how many seconds it holds."""
        # Loaded with the first question: a hundredth of an idle server's memory.
        from twisted.names.client import Resolver
        from twisted.names.dns import SRV
        from twisted.names.error import DNSNameError

        # One resolver per question: it keeps a connection for itself once an answer was too long for a datagram.
        servers = list(self._name_servers())[:MAX_SERVERS]
        resolver: Any = Resolver(  # type: ignore[no-untyped-call]
            servers=servers, timeout=self._timeouts, reactor=NamePorts(self._reactor)
        )
        try:
            answers, _, _ = await resolver.lookupService(name)
        except DNSNameError:
            return Srv(), NOTHING_SECONDS
        except Exception as error:  # what twisted.names lets out is not one family
            return Srv(problem=f"no name server could tell ({type(error).__name__})"), FAILURE_SECONDS
        finally:
            for connection in resolver.connections:
                connection.transport.loseConnection()
        records = [answer for answer in answers if answer.type == SRV]
        if not records:
            return Srv(), NOTHING_SECONDS
        period = min(max(float(min(record.ttl for record in records)), SHORTEST_SECONDS), LONGEST_SECONDS)
        read = (_record(answer.payload) for answer in records[: 2 * MAX_TARGETS])
        # An empty host is an answer, a host that cannot be one is not.
        return Srv(tuple(record for record in read if not record.host or is_dns_name(record.host))), period


def _record(payload: Record_SRV) -> SrvRecord:
    host = payload.target.name.decode("ascii", "replace").rstrip(".").lower()
    return SrvRecord(int(payload.priority), int(payload.weight), int(payload.port), host)


def system_name_servers(path: Path = RESOLV_CONF) -> list[NameServer]:
    """The name servers of resolv.conf(5), read anew each time; this machine if it names none."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    words = [line.split() for line in lines]
    named = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
    return [(address, 53) for address in named if _is_plain_address(address)] or [("127.0.0.1", 53)]


def _is_plain_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text
