# SPDX-License-Identifier: Apache-2.0
"""What asks other servers at all. Built before the core, whose rooms may have to ask a policy server, and so of nothing
but the database and the key.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from prometheus_client import REGISTRY

from federation.client.calls import FederationCalls
from federation.client.client import FederationClient
from federation.client.http_wire import HttpWire
from federation.client.metrics import ClientMetrics
from federation.destinations import Availability
from federation.discovery import make_discovery
from federation.outbound.building import start_availability
from federation.policy_servers import FederatedPolicyServers
from homeserver.app.core import Ground, now_ms
from homeserver.config import Config
from homeserver.outgoing import OutgoingClient
from homeserver.protocol.signing import SigningKey


class Reach(Struct, frozen=True, kw_only=True):
    """One per process."""

    http: OutgoingClient
    wire: HttpWire
    availability: Availability
    calls: FederationCalls
    policy_servers: FederatedPolicyServers


async def build_reach(
    reactor: Any, config: Config, ground: Ground, signing_key: SigningKey, http: OutgoingClient
) -> Reach:
    """Build it, and remember which servers are known not to answer."""
    wire = HttpWire(reactor, discovery=make_discovery(reactor, http), http=http)
    availability = await start_availability(reactor, ground.database, origin=ground.origin, now=now_ms)
    metrics = ClientMetrics()
    REGISTRY.register(metrics)
    calls = FederationCalls(
        FederationClient(
            server_name=config.server_name,
            signing_key=signing_key,
            wire=wire,
            availability=availability,
            metrics=metrics,
        )
    )
    policy_servers = FederatedPolicyServers(
        server_name=config.server_name, calls=calls, clock=reactor.seconds
    )
    return Reach(http=http, wire=wire, availability=availability, calls=calls, policy_servers=policy_servers)
