# SPDX-License-Identifier: Apache-2.0
"""Looking at a certificate without trusting it, to tell an administrator what is wrong with it.

Owns one handshake whose certificate is read whatever it is worth. Nothing is sent over the connection.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID
from msgspec import Struct

from homeserver.outgoing.address_policy import AddressPolicy
from homeserver.outgoing.connecting import Connector
from homeserver.outgoing.errors import TlsFailed
from homeserver.outgoing.names import AddressResolver
from homeserver.outgoing.targets import Target
from homeserver.outgoing.tls import TlsPolicy


class Certificate(Struct, frozen=True):
    """What a certificate says: DNS names and addresses, who issued it, and its time."""

    names: tuple[str, ...]
    issuer: str
    starts: datetime
    ends: datetime


class Inspector:
    """Reads certificates. Reaches what the policy permits, like every request."""

    def __init__(self, reactor: Any, *, resolver: AddressResolver, policy: AddressPolicy) -> None:
        self._connector = Connector(reactor, resolver=resolver, tls=TlsPolicy(verify=False))
        self._policy = policy

    async def addresses(self, host: str) -> tuple[str, ...]:
        """The addresses of a host that may be reached. Raises NameNotFound, AddressDenied, Overloaded."""
        return tuple(await self._connector.addresses(host, self._policy))

    async def certificate(self, target: Target) -> Certificate:
        """The certificate shown at a target. Raises OutgoingError."""
        connection = await self._connector.connect(target, self._policy, target)
        transport: Any = connection.transport
        try:
            return _read(transport.getHandle().get_peer_certificate(as_cryptography=True))
        except (
            Exception
        ) as error:  # a certificate can be malformed in more ways than its parser has names for
            raise TlsFailed("the certificate cannot be read") from error
        finally:
            connection.abort()


def _read(shown: x509.Certificate) -> Certificate:
    try:
        alternatives = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [
            *alternatives.get_values_for_type(x509.DNSName),
            *map(str, alternatives.get_values_for_type(x509.IPAddress)),
        ]
    except x509.ExtensionNotFound:
        names = []
    named = shown.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    issuer = str(named[0].value) if named else shown.issuer.rfc4514_string()
    return Certificate(tuple(names[:50]), issuer, shown.not_valid_before_utc, shown.not_valid_after_utc)
