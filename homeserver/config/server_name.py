# SPDX-License-Identifier: Apache-2.0
"""The name this server may be given.

Owns the rules for one's own name, stricter than `protocol.identifiers` is with the names of others: a name is
chosen once and can never be changed, so what the specification only recommends against is refused
(appendices, Server Name).
"""

import ipaddress
import re
from typing import Final

from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.identifiers import is_ip_literal, parse_server_name

_LABEL: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_LONGEST: Final = 230


def server_name_problem(server_name: str) -> str | None:
    """What is wrong with a server name, or None."""
    if "/" in server_name:
        return "must be a name such as example.org, not a URL"
    try:
        host, port = parse_server_name(server_name)
    except IdentifierError:
        return "must be a DNS name or an address, with an optional :port, such as example.org"
    if server_name != server_name.lower():
        return "must be written in lower case"
    if len(server_name) > _LONGEST:
        return f"must be at most {_LONGEST} characters long"
    if port == 0:
        return "must not name port 0"
    if not is_ip_literal(server_name) and not all(_LABEL.fullmatch(label) for label in host.split(".")):
        return "must be a DNS name of labels of letters, digits and hyphens, such as example.org"
    return None


def is_local(server_name: str) -> bool:
    """Whether a valid name only has a meaning on this machine: localhost or a loopback address."""
    host = parse_server_name(server_name).host
    if is_ip_literal(server_name):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost" or host.endswith(".localhost")
