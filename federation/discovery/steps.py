# SPDX-License-Identifier: Apache-2.0
"""Which step of server discovery leads where: the decision table, without any I/O.

Owns server-server API, "Resolving server names": what a name says by itself, what is asked next, and which address,
port, certificate name and `Host` header follow from the answers. Does not own the asking.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, NamedTuple

from msgspec import Struct

from homeserver.outgoing import Target
from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.identifiers import is_ip_literal, parse_server_name

DEFAULT_PORT: Final = 8448
#: Places of one server that are tried.
MAX_TARGETS: Final = 8
MAX_NAME_BYTES: Final = 255

_LABEL: Final = re.compile(r"[0-9A-Za-z_-]{1,63}")


class Step(Enum):
    """How a server was found, numbered as in the specification."""

    IP_LITERAL = "1"
    EXPLICIT_PORT = "2"
    DELEGATED_IP_LITERAL = "3.1"
    DELEGATED_EXPLICIT_PORT = "3.2"
    DELEGATED_SRV = "3.3"
    DELEGATED_DEPRECATED_SRV = "3.4"
    DELEGATED_DEFAULT_PORT = "3.5"
    SRV = "4"
    DEPRECATED_SRV = "5"
    DEFAULT_PORT = "6"


class Service(Enum):
    """The two names an SRV record may stand under."""

    CURRENT = "_matrix-fed._tcp"
    DEPRECATED = "_matrix._tcp"


class SrvRecord(NamedTuple):
    """One SRV record (RFC 2782). `host` has no trailing dot; it is empty where the service is said not to exist."""

    priority: int
    weight: int
    port: int
    host: str


class Found(Struct, frozen=True):
    """The end: where to connect, in this order. No targets: the server says it offers no federation."""

    step: Step
    targets: tuple[Target, ...]


class AskWellKnown(Struct, frozen=True):
    """Next: `https://<hostname>/.well-known/matrix/server`."""

    hostname: str


class AskSrv(Struct, frozen=True):
    """Next: SRV records for the hostname, the current service first."""

    hostname: str
    delegated: bool


def begin(server_name: str) -> Found | AskWellKnown:
    """Steps 1 and 2. Raises IdentifierError for what is no server name, or names port 0."""
    found = _without_asking(server_name, Step.IP_LITERAL, Step.EXPLICIT_PORT)
    return found or AskWellKnown(dns_name(server_name))


def after_well_known(hostname: str, delegated_name: str | None) -> Found | AskSrv:
    """Step 3. `delegated_name` is a valid `m.server`, or None if there is none."""
    if delegated_name is None:
        return AskSrv(hostname, delegated=False)
    found = _without_asking(delegated_name, Step.DELEGATED_IP_LITERAL, Step.DELEGATED_EXPLICIT_PORT)
    return found or AskSrv(delegated_name, delegated=True)


def after_srv(asked: AskSrv, service: Service, records: Sequence[SrvRecord]) -> Found | None:
    """Steps 3.3, 3.4, 4 and 5. `records` are in the order to try; None if there are none to go by."""
    if not records:
        return None
    current = service is Service.CURRENT
    if asked.delegated:
        step = Step.DELEGATED_SRV if current else Step.DELEGATED_DEPRECATED_SRV
    else:
        step = Step.SRV if current else Step.DEPRECATED_SRV
    name = dns_name(asked.hostname)
    usable = [record for record in records if record.host and record.port]
    targets = (Target(record.host, record.port, name, asked.hostname) for record in usable[:MAX_TARGETS])
    return Found(step, tuple(targets))


def without_srv(asked: AskSrv) -> Found:
    """Steps 3.5 and 6."""
    name = dns_name(asked.hostname)
    step = Step.DELEGATED_DEFAULT_PORT if asked.delegated else Step.DEFAULT_PORT
    return Found(step, (Target(name, DEFAULT_PORT, name, asked.hostname),))


def delegation_problem(name: object) -> str | None:
    """What is wrong with the value of `m.server`, or None."""
    if not isinstance(name, str):
        return "m.server is missing or not a string"
    try:
        _without_asking(name, Step.DELEGATED_IP_LITERAL, Step.DELEGATED_EXPLICIT_PORT)
    except IdentifierError:
        return "m.server is not a server name that leads anywhere"
    return None


def in_order(records: Sequence[SrvRecord], random: Callable[[], float]) -> list[SrvRecord]:
    """The order to try records in: by priority, among equals by chance in proportion to weight (RFC 2782).

    `random` gives numbers from 0 up to but not including 1.
    """
    left = sorted(records, key=lambda record: (record.priority, record.weight))
    ordered: list[SrvRecord] = []
    while left:
        equals = [record for record in left if record.priority == left[0].priority]
        drawn = random() * (sum(record.weight for record in equals) + 1)
        for record in equals:
            drawn -= record.weight
            if drawn < 1:
                break
        # Where nothing has weight, the first is as good as any.
        ordered.append(record)
        left.remove(record)
    return ordered


def dns_name(server_name: str) -> str:
    """The host of a valid server name as it is looked up and proven: lower case, no brackets, no port, no final dot."""
    host = parse_server_name(server_name).host
    return host.strip("[]").rstrip(".").lower()


def is_dns_name(host: str) -> bool:
    """Whether a name could stand in the DNS at all: labels of 1 to 63 bytes, 253 in total."""
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in host.split("."))


def _without_asking(name: str, literal: Step, with_port: Step) -> Found | None:
    """Where a name leads that needs no further question."""
    if len(name) > MAX_NAME_BYTES:
        raise IdentifierError("a server name is at most 255 bytes long")
    host, port = dns_name(name), parse_server_name(name).port
    if port == 0 or not (is_ip_literal(name) or is_dns_name(host)):
        raise IdentifierError("a server name that no name server can know, or with port 0")
    if is_ip_literal(name):
        return Found(literal, (Target(host, port or DEFAULT_PORT, host, name),))
    if port is not None:
        return Found(with_port, (Target(host, port, host, name),))
    return None
