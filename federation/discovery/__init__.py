# SPDX-License-Identifier: Apache-2.0
"""Finding other servers: from a server name to where to connect (server-server API, "Resolving server names").

`make_discovery` builds it on the outgoing client; `ServerDiscovery.find` gives the places to try.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from federation.discovery.discovery import DiscoveryBusy, DiscoveryFailed, Resolution, ServerDiscovery
from federation.discovery.srv import NameServer, SrvLookup
from federation.discovery.well_known import WellKnownCache
from homeserver.outgoing import OutgoingClient

__all__ = ["DiscoveryBusy", "DiscoveryFailed", "Resolution", "ServerDiscovery", "make_discovery"]


def make_discovery(
    reactor: Any,
    client: OutgoingClient,
    *,
    name_servers: Callable[[], Sequence[NameServer]] | None = None,
) -> ServerDiscovery:
    """Discovery through the client. `name_servers`: whom to ask for SRV records, by default those of this machine."""
    well_known = WellKnownCache(client, seconds=reactor.seconds, now=time.time)
    return ServerDiscovery(well_known, SrvLookup(reactor, name_servers=name_servers))
