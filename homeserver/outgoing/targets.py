# SPDX-License-Identifier: Apache-2.0
"""Where a request goes, apart from what it asks for.

Owns the separation of the four things a URL throws together, which Matrix keeps apart (server-server API, "Resolving
server names"): the host connected to, the port, the name the certificate must prove, and the `Host` header.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

import idna
from msgspec import Struct

from homeserver.outgoing.errors import BadRedirect, BadUrl

_KEPT = "/%:@!$&'()*+,;=~-._?"
_PORTS = {"https": 443, "http": 80}


class Target(NamedTuple):
    """One place to connect to. Addresses stand without brackets, names in lower case."""

    host: str
    """DNS name, which is resolved when connecting, or address."""
    port: int
    tls_name: str | None
    """The DNS name or address the certificate must be for, and SNI if a name. None: no TLS."""
    host_header: str


class Place(Struct, frozen=True):
    """A URL taken apart: where to connect, and the path with its query."""

    target: Target
    path: str
    url: str

    @property
    def origin(self) -> tuple[str, int, bool]:
        """What must stay the same for a secret to be sent along."""
        return (self.target.host, self.target.port, self.target.tls_name is not None)


def is_address(host: str) -> bool:
    """Whether a host is an IPv4 or IPv6 address without brackets, in the strict notation."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def place_of(url: str) -> Place:
    """Take an http or https URL apart. Raises BadUrl; a URL with a user name or password in it is refused, too."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadUrl(f"not a URL: {error}") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise BadUrl("the URL must start with https:// or http:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise BadUrl("the URL carries a user name")
    if port == 0:
        raise BadUrl("the URL names port 0")
    host = _host_of(parts.hostname)
    secure = parts.scheme == "https"
    bracketed = f"[{host}]" if ":" in host else host
    header = bracketed if port is None else f"{bracketed}:{port}"
    path = quote(parts.path or "/", safe=_KEPT)
    if parts.query:
        path += "?" + quote(parts.query, safe=_KEPT)
    target = Target(host, port or _PORTS[parts.scheme], host if secure else None, header)
    return Place(target, path, f"{parts.scheme}://{header}{path}")


def redirected(place: Place, location: str) -> Place:
    """Where a `Location` leads from a place. Raises BadUrl, and BadRedirect if it leaves encryption behind."""
    try:
        url = urljoin(place.url, location)
    except ValueError as error:
        raise BadUrl(f"not a URL: {error}") from error
    there = place_of(url)
    if place.target.tls_name is not None and there.target.tls_name is None:
        raise BadRedirect("redirected from https to http")
    return there


def _host_of(hostname: str) -> str:
    """The host in the form that is resolved. Raises BadUrl."""
    host = hostname.rstrip(".").lower()
    if is_address(host):
        return host
    if not host.isascii():
        try:
            return idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise BadUrl(f"not a host name: {error}") from error
    if not host or len(host) > 253 or any(character <= " " or character in "/\\%\x7f" for character in host):
        raise BadUrl("not a host name")
    return host
