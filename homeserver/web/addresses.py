# SPDX-License-Identifier: Apache-2.0
"""Where a request came from, when proxies stand between.

Owns whose X-Forwarded-For and X-Forwarded-Proto are believed: those of loopback and of the configured proxies. The
chain is read from its end, so that what a client wrote into the header itself is never believed.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


class ProxyTrust:
    """Which addresses are proxies of ours."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)
        self._cached = lru_cache(maxsize=4096)(self._is_trusted)

    def is_trusted(self, address: str) -> bool:
        """Whether what this address says of the client is believed."""
        return self._cached(address)

    def client(self, peer: str, forwarded: Iterable[str]) -> str:
        """The client's address, given the connection's peer and its X-Forwarded-For headers.

        The nearest address that is no proxy of ours; where the header is broken, the last that was readable.
        """
        address = peer
        chain = [entry for value in forwarded for entry in value.split(",")]
        while chain and self.is_trusted(address):
            read = _read(chain.pop())
            if read is None:
                break
            address = str(read)
        return address

    def _is_trusted(self, address: str) -> bool:
        read = _read(address)
        if read is None:
            return address == ""  # a Unix socket: who may open it is the file's permissions
        return read.is_loopback or any(read in network for network in self._networks)


_HOST_BITS: Final = 64


def counted_as(address: str) -> str:
    """The client that an address is counted as by rate limits: of IPv6, the network of 64 bits that every household
    is given, or limits would be as many times what they say as there are addresses in it."""
    if ":" not in address:
        return address
    read = _read(address)
    if not isinstance(read, IPv6Address):
        return address if read is None else str(read)
    return f"{IPv6Address(int(read) >> _HOST_BITS << _HOST_BITS)}/{128 - _HOST_BITS}"


def _read(text: str) -> Address | None:
    """An address as proxies write them: bare, in brackets, with a port."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
