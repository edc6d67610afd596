# SPDX-License-Identifier: Apache-2.0
"""What a single configured value must look like beyond its type: URLs, ports, counts, names.

Owns the `Check`s the sections name. What two keys must be to each other stands in `checks`.
"""

import re
from typing import Final
from urllib.parse import urlsplit

from homeserver.config.option import Check
from homeserver.config.server_name import server_name_problem
from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.identifiers import (
    is_valid_server_name,
    is_valid_user_id,
    parse_key_id,
    user_id_for_registration,
)
from homeserver.protocol.room_versions import STABLE_ROOM_VERSIONS
from homeserver.protocol.signing import ALGORITHM, VerifyKey

SHORTEST_SIGNING_SECRET: Final = 32
_NAMESPACED_KEY: Final = re.compile(r"[A-Za-z0-9_.-]+")
# RFC 7064 and RFC 7065, with the two transports browsers know.
_TURN_URI: Final = re.compile(
    r"(?:(?P<turn>turns?):|stuns?:)"
    r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?(turn)(?:\?transport=(?:udp|tcp))?)"
)


def server_name(value: str) -> str | None:
    """A server name of the Matrix grammar (specification, appendices, Server Name)."""
    return server_name_problem(value)


def http_url(value: str) -> str | None:
    """An absolute http or https URL with a host, without query and fragment."""
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018  (reading it is what checks it)
    except ValueError as error:
        return f"must be a URL: {error}"
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return "must be a URL that starts with https:// or http:// and names a host"
    if parts.query or parts.fragment or parts.username is not None:
        return "must be a URL without user name, query and fragment"
    return None


def websocket_url(value: str) -> str | None:
    """An absolute ws or wss URL with a host, without query and fragment."""
    if not value.startswith(("ws://", "wss://")):
        return "must be a URL that starts with wss:// or ws:// and names a host"
    problem = http_url(f"http{value[2:]}")
    return problem.replace("https://", "wss://").replace("http://", "ws://") if problem else None


def turn_uris(value: tuple[str, ...]) -> str | None:
    """URIs of TURN and STUN servers."""
    for uri in value:
        match = _TURN_URI.fullmatch(uri)
        if match is None or not 0 < int(match["port"] or 3478) <= 65535:
            return (
                "must be URIs such as turn:turn.example.org, turns:turn.example.org:443?transport=tcp or "
                f"stun:turn.example.org; {uri!r} is none"
            )
    return None


def signing_secret(value: str) -> str | None:
    """A secret that tokens are signed with: who has a token could find a short one by trying."""
    if len(value) >= SHORTEST_SIGNING_SECRET:
        return None
    return f"must have at least {SHORTEST_SIGNING_SECRET} characters, or whoever gets a token could guess it"


def web_page(value: str) -> str | None:
    """Any absolute http or https URL."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        return "must be a URL that starts with https:// or http://"
    return None


def postgres_url(value: str) -> str | None:
    """A libpq connection URL."""
    if value.startswith(("postgresql://", "postgres://")):
        return None
    return "must be a URL such as postgresql://user:password@host:5432/database"


def port(value: int) -> str | None:
    """A TCP port; 0 asks the system for a free one."""
    return None if 0 <= value <= 65535 else "must be a port from 0 to 65535"


def at_least(lowest: int) -> Check:
    """A number that is not below `lowest`."""

    def check(value: int) -> str | None:
        return None if value >= lowest else f"must be at least {lowest}"

    return check


def room_version(value: str) -> str | None:
    """A room version this server makes rooms of."""
    if value in STABLE_ROOM_VERSIONS:
        return None
    return f"must be one of the room versions {', '.join(STABLE_ROOM_VERSIONS)}"


def server_names(value: tuple[str, ...]) -> str | None:
    """Names of other servers, each once."""
    if len(set(value)) < len(value):
        return "must name each server once"
    wrong = [name for name in value if not is_valid_server_name(name)]
    return f"must be server names such as example.org; {wrong[0]!r} is none" if wrong else None


def signing_key_id(value: str) -> str | None:
    """The id of an Ed25519 signing key."""
    try:
        return None if parse_key_id(value).algorithm == ALGORITHM else f"must begin with {ALGORITHM}:"
    except IdentifierError:
        return f"must be a key id such as {ALGORITHM}:a_AbCdEf"


def verify_key(value: str) -> str | None:
    """The public half of an Ed25519 signing key."""
    try:
        VerifyKey.from_base64(value)
    except ValueError:
        return "must be an Ed25519 public key in Base64"
    return None


def not_empty(value: tuple[object, ...] | str) -> str | None:
    """Text or a list with something in it."""
    return None if value else "must not be empty"


def user_name(value: str) -> str | None:
    """The name of an account, before the colon."""
    try:
        valid = user_id_for_registration(value, "example.org") == f"@{value}:example.org"
    except IdentifierError:
        valid = False
    return None if valid else "must be a user name such as echo: a-z, 0-9 and . _ = - / +"


def user_id(value: str) -> str | None:
    """A Matrix user id, of this server or another."""
    return None if is_valid_user_id(value) else "must be a Matrix user id such as @admin:example.org"


def email_address(value: str) -> str | None:
    """Text that can be an email address; whether it is one only a message can tell."""
    local, at, domain = value.rpartition("@")
    return None if local and at and domain and " " not in value else "must be an email address"


def contact_role(value: str) -> str | None:
    """A role of the support document: one the specification names, or one of a namespace of its own."""
    if value.startswith("m.") and value not in {"m.role.admin", "m.role.security"}:
        return "must be m.role.admin, m.role.security or a name in a namespace of your own"
    return (
        None if _NAMESPACED_KEY.fullmatch(value) and "." in value else "must be a name such as m.role.admin"
    )
