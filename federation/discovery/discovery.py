# SPDX-License-Identifier: Apache-2.0
"""From a server name to the places to connect to.

Owns the walk through the steps of `steps`, asking `well_known` and `srv` where they call for it. Remembers nothing
itself: what the two keep makes the walk cheap. Does not own connecting, nor resolving the hosts it finds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from msgspec import Struct

from federation.discovery.srv import Srv, SrvLookup
from federation.discovery.steps import (
    AskSrv,
    AskWellKnown,
    Found,
    Service,
    Step,
    after_srv,
    after_well_known,
    begin,
    dns_name,
    in_order,
    without_srv,
)
from federation.discovery.well_known import WellKnown, WellKnownCache
from homeserver.outgoing import Target
from homeserver.outgoing.errors import Overloaded
from homeserver.protocol.errors import IdentifierError


class DiscoveryFailed(Exception):
    """The name leads nowhere; the message says why."""


class DiscoveryBusy(DiscoveryFailed):
    """Too much is being looked up on this side: nothing is known of where the name leads."""


class Resolution(Struct, frozen=True):
    """How a server was found. `srv` holds what was asked for, in that order."""

    server_name: str
    step: Step
    targets: tuple[Target, ...]
    well_known: WellKnown | None
    srv: tuple[tuple[str, Srv], ...]


class ServerDiscovery:
    """Finds servers. `random` draws among SRV records of equal priority."""

    def __init__(
        self, well_known: WellKnownCache, srv: SrvLookup, *, random: Callable[[], float] = random.random
    ) -> None:
        self._well_known = well_known
        self._srv = srv
        self._random = random

    async def find(self, server_name: str) -> Sequence[Target]:
        """The places of a server, in the order to try them, at least one. Raises DiscoveryFailed."""
        resolution = await self.resolve(server_name)
        if not resolution.targets:
            raise DiscoveryFailed(f"the SRV record of {server_name} says that it offers no federation")
        return resolution.targets

    async def resolve(self, server_name: str) -> Resolution:
        """The same with the way to it; there may be no targets. Raises DiscoveryFailed."""
        try:
            first = begin(server_name)
            if isinstance(first, Found):
                return Resolution(server_name, first.step, first.targets, None, ())
            return await self._ask(server_name, first)
        except IdentifierError as error:
            raise DiscoveryFailed(f"{server_name[:255]!r} is not a server name") from error
        except Overloaded as error:
            raise DiscoveryBusy(str(error)) from error

    def doubt(self, server_name: str) -> None:
        """None of the places answered: look soon whether the server has moved."""
        try:
            self._well_known.doubt(dns_name(server_name))
        except IdentifierError:
            return

    async def _ask(self, server_name: str, first: AskWellKnown) -> Resolution:
        well_known = await self._well_known.look_up(first.hostname)
        second = after_well_known(server_name, well_known.delegated_name)
        if isinstance(second, Found):
            return Resolution(server_name, second.step, second.targets, well_known, ())
        found, asked = await self._ask_srv(second)
        return Resolution(server_name, found.step, found.targets, well_known, asked)

    async def _ask_srv(self, asked: AskSrv) -> tuple[Found, tuple[tuple[str, Srv], ...]]:
        hostname = dns_name(asked.hostname)
        answers: list[tuple[str, Srv]] = []
        for service in Service:
            srv = await self._srv.look_up(service, hostname)
            answers.append((f"{service.value}.{hostname}", srv))
            found = after_srv(asked, service, in_order(srv.records, self._random))
            if found is not None:
                return found, tuple(answers)
        # Also where no name server could tell: the certificate decides who answers, not the record.
        return without_srv(asked), tuple(answers)
