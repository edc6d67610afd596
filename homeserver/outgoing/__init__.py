# SPDX-License-Identifier: Apache-2.0
"""Every HTTP request this server makes to other machines, through one client.

`OutgoingClient` is made once per process by `make_client` and handed to whoever asks others: federation, push,
application services, previews. Nothing else of the tree opens client connections.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL

from homeserver import __version__
from homeserver.config.errors import StartRefused
from homeserver.config.sections import Federation
from homeserver.outgoing.address_policy import AddressPolicy
from homeserver.outgoing.client import OutgoingClient, OutgoingResponse
from homeserver.outgoing.connecting import Connector
from homeserver.outgoing.errors import OutgoingError
from homeserver.outgoing.exchange import Caps, Flow, Sink
from homeserver.outgoing.names import AddressResolver, SystemResolver
from homeserver.outgoing.parsing import ResponseHead
from homeserver.outgoing.targets import Target
from homeserver.outgoing.tls import TlsPolicy

__all__ = [
    "AddressPolicy",
    "AddressResolver",
    "Caps",
    "Connector",
    "Flow",
    "OutgoingClient",
    "OutgoingError",
    "OutgoingResponse",
    "ResponseHead",
    "Sink",
    "Target",
    "TlsPolicy",
    "make_client",
]


def make_client(
    reactor: Any, config: Federation, *, resolver: AddressResolver | None = None
) -> OutgoingClient:
    """The client as configured. Raises StartRefused if `federation.ca_file` cannot be read."""
    try:
        tls = TlsPolicy(verify=config.verify_certificates, ca_file=config.ca_file)
    except SSL.Error as error:
        raise StartRefused(
            f"{config.ca_file} (federation.ca_file) holds no certificates in PEM form"
        ) from error
    return OutgoingClient(
        reactor,
        connector=Connector(reactor, resolver=resolver or SystemResolver(reactor), tls=tls),
        policy=AddressPolicy(deny=config.deny_ip_ranges, allow=config.allow_ip_ranges),
        user_agent=f"Lares/{__version__}",
    )
