# SPDX-License-Identifier: Apache-2.0
"""Which addresses this server may connect to.

Owns the judgement of one address against `federation.deny_ip_ranges` and `federation.allow_ip_ranges`, including the
IPv4 addresses that IPv6 addresses carry: a gateway unpacks them, so that `64:ff9b::7f00:1` may end at 127.0.0.1. Does
not own where addresses come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

_TRANSLATED: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE: Final = IPv6Network("::/96")
_ISATAP: Final = (0x00005EFE, 0x02005EFE)


class AddressPolicy:
    """Denied and allowed ranges. Compared by identity, so that connections made under one are not reused under another.

    An address may be reached if it, and every IPv4 address inside it, is in an allowed range or in no denied one.
    """

    def __init__(self, *, deny: Iterable[Network] = (), allow: Iterable[Network] = ()) -> None:
        self._deny = tuple(deny)
        self._allow = tuple(allow)

    def permits(self, address: str) -> bool:
        """Whether a connection to an address, without brackets, may be made. A zone (`fe80::1%eth0`) never."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
            return False
        return all(self._permits_form(form) for form in forms(parsed))

    def _permits_form(self, address: Address) -> bool:
        # A network of the other family never contains it.
        if any(address in network for network in self._allow):
            return True
        return not any(address in network for network in self._deny)


def forms(address: Address) -> Iterator[Address]:
    """The address, and the IPv4 addresses it carries: mapped, compatible, 6to4, NAT64, Teredo, ISATAP."""
    yield address
    if isinstance(address, IPv4Address):
        return
    number = int(address)
    low = IPv4Address(number & 0xFFFFFFFF)
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address in _COMPATIBLE and number > 1:
        yield low
    if address.sixtofour is not None:
        yield address.sixtofour
    if any(address in network for network in _TRANSLATED):
        yield low
    if address.teredo is not None:
        yield from address.teredo
    if (number >> 32) & 0xFFFFFFFF in _ISATAP:
        yield low
