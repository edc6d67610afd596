# SPDX-License-Identifier: Apache-2.0
"""The grammars of Matrix identifiers (appendices, "Identifier Grammar").

Owns what is a well-formed identifier and its parts. Does not own whether the thing exists, nor which user
names a server lets people register beyond the grammar. ``check_…`` raises IdentifierError, ``is_valid_…``
answers, ``parse_…`` gives the parts. Lengths count UTF-8 bytes.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Final, NamedTuple

from homeserver.protocol.errors import IdentifierError

#: Bytes of a user id, room id, alias or event id, sigil and domain included.
MAX_IDENTIFIER_BYTES: Final = 255

_HOST_AND_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z.-]{1,255})(?::([0-9]{1,5}))?")
_FOUR_NUMBERS: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_LOCALPART: Final = re.compile(r"[a-z0-9._=/+-]+")
_NAME_RULE: Final = "a user name may only contain a-z, 0-9, and . _ = - / +"
_LOCALPART_BYTES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-/+")
_VISIBLE_ASCII: Final = re.compile(r"[!-~]+")
_HASH: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_OPAQUE: Final = re.compile(r"[0-9A-Za-z._~-]{1,255}")
_NAMESPACED: Final = re.compile(r"[a-z][a-z0-9._-]{0,254}")
_KEY_ID: Final = re.compile(r"([a-z0-9_]+):([A-Za-z0-9_]+)")
_MEDIA_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,255}")


class ServerName(NamedTuple):
    """A server name's parts; ``host`` keeps the brackets of an IPv6 literal."""

    host: str
    port: int | None


class MxcUri(NamedTuple):
    """The parts of ``mxc://server_name/media_id``."""

    server_name: str
    media_id: str


class KeyId(NamedTuple):
    """The parts of ``algorithm:name``."""

    algorithm: str
    name: str


def parse_server_name(name: str) -> ServerName:
    """Split a server name into host and port.

    Raises IdentifierError unless it is a DNS name, an IPv4 literal or a bracketed IPv6 literal, with an
    optional port of at most five digits.
    """
    match = _HOST_AND_PORT.fullmatch(name)
    if match is None:
        raise IdentifierError(f"not a server name: {_shown(name)}")
    host, port = match.groups()
    if host[0] == "[":
        try:
            IPv6Address(host[1:-1])
        except AddressValueError as error:
            raise IdentifierError(f"not an IPv6 literal: {_shown(name)}") from error
    elif _FOUR_NUMBERS.fullmatch(host) and any(int(number) > 255 for number in host.split(".")):
        raise IdentifierError(f"not an IPv4 literal: {_shown(name)}")
    if port is None:
        return ServerName(host, None)
    if int(port) > 65535:
        raise IdentifierError(f"port out of range: {_shown(name)}")
    return ServerName(host, int(port))


def is_ip_literal(name: str) -> bool:
    """Whether a valid server name's host is an IPv4 or IPv6 literal rather than a DNS name."""
    host = parse_server_name(name).host
    return host[0] == "[" or _FOUR_NUMBERS.fullmatch(host) is not None


def domain_of(identifier: str) -> str:
    """The server name after the first colon of a user id, alias, or an old room or event id.

    Cheap, for identifiers already checked. Raises IdentifierError if there is no domain.
    """
    domain = identifier.partition(":")[2]
    if not domain:
        raise IdentifierError(f"no domain in {_shown(identifier)}")
    return domain


def localpart_of(identifier: str) -> str:
    """What stands between the sigil and the first colon of an identifier already checked."""
    return identifier[1:].partition(":")[0]


def check_server_name(name: str) -> None:
    """Raise IdentifierError unless ``name`` is a server name."""
    parse_server_name(name)


def check_user_id(user_id: str) -> None:
    """Raise IdentifierError unless servers must accept this user id, historical localparts included.

    A historical localpart may be empty and hold any code points but ``:``, NUL and surrogates.
    """
    _check_with_domain(user_id, "@", "user id")


def check_compliant_user_id(user_id: str) -> None:
    """Raise IdentifierError unless the localpart is not empty and only visible ASCII.

    Other historical ids SHOULD NOT reach clients outside the context of an event.
    """
    check_user_id(user_id)
    if not _VISIBLE_ASCII.fullmatch(localpart_of(user_id)):
        raise IdentifierError(f"non-compliant user id: {_shown(user_id)}")


def check_new_user_id(user_id: str) -> None:
    """Raise IdentifierError unless the user id keeps to the grammar for accounts made today."""
    check_user_id(user_id)
    if not _LOCALPART.fullmatch(localpart_of(user_id)):
        raise IdentifierError(_NAME_RULE)


def user_id_for_registration(username: str, server_name: str) -> str:
    """The user id of a new account that asks for ``username``, downcased as servers must.

    Raises IdentifierError if the name leaves the grammar or the whole id is over 255 bytes.
    """
    localpart = username.lower()
    if not _LOCALPART.fullmatch(localpart):
        raise IdentifierError(_NAME_RULE)
    user_id = f"@{localpart}:{server_name}"
    check_user_id(user_id)
    return user_id


def map_to_localpart(text: str, *, case_sensitive: bool = False) -> str:
    """Map any text onto the localpart alphabet by the algorithm the specification suggests.

    ``case_sensitive`` keeps names apart that differ in case: ``A`` becomes ``_a``, ``_`` becomes ``__``.
    Raises IdentifierError for text with lone surrogates.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise IdentifierError("text with a lone surrogate") from error
    mapped: list[str] = []
    for byte in data:
        if 0x41 <= byte <= 0x5A:
            mapped.append(("_" if case_sensitive else "") + chr(byte + 0x20))
        elif byte == 0x5F and case_sensitive:
            mapped.append("__")
        elif byte in _LOCALPART_BYTES:
            mapped.append(chr(byte))
        else:
            mapped.append(f"={byte:02x}")
    return "".join(mapped)


def check_room_alias(alias: str) -> None:
    """Raise IdentifierError unless ``alias`` is a room alias."""
    _check_with_domain(alias, "#", "room alias")


def check_room_id(room_id: str) -> None:
    """Raise IdentifierError unless ``room_id`` is a room id of any room version."""
    if ":" in room_id:
        check_room_id_with_domain(room_id)
    else:
        check_room_id_without_domain(room_id)


def check_room_id_with_domain(room_id: str) -> None:
    """Raise IdentifierError unless ``room_id`` is of the form of room versions 1 to 11."""
    _check_with_domain(room_id, "!", "room id")


def check_room_id_without_domain(room_id: str) -> None:
    """Raise IdentifierError unless ``room_id`` is of the form of room version 12: a create event's hash."""
    if room_id[:1] != "!" or not _HASH.fullmatch(room_id, 1):
        raise IdentifierError(f"not a room id: {_shown(room_id)}")


def check_event_id(event_id: str) -> None:
    """Raise IdentifierError unless this could be an event id of some room version."""
    if event_id[:1] != "$" or len(event_id) < 2:
        raise IdentifierError(f"not an event id: {_shown(event_id)}")
    _check_text(event_id, "event id")


def check_event_id_with_domain(event_id: str) -> None:
    """Raise IdentifierError unless ``event_id`` is of the form of room versions 1 and 2."""
    _check_with_domain(event_id, "$", "event id")


def parse_mxc_uri(uri: str) -> MxcUri:
    """Split a content URI (client-server API, "Content repository").

    Raises IdentifierError unless it names a server and a media id of safe characters.
    """
    scheme, _, rest = uri.partition("://")
    server_name, slash, media_id = rest.partition("/")
    if scheme != "mxc" or not slash or not _MEDIA_ID.fullmatch(media_id):
        raise IdentifierError(f"not a content URI: {_shown(uri)}")
    parse_server_name(server_name)
    return MxcUri(server_name, media_id)


def parse_key_id(key_id: str) -> KeyId:
    """Split a signing key id such as ``ed25519:a_1``.

    Raises IdentifierError for anything else than an algorithm and a name of ``[A-Za-z0-9_]``.
    """
    match = _KEY_ID.fullmatch(key_id)
    if match is None:
        raise IdentifierError(f"not a key id: {_shown(key_id)}")
    return KeyId(match[1], match[2])


def is_valid_server_name(name: str) -> bool:
    """Whether ``check_server_name`` passes."""
    return _passes(check_server_name, name)


def is_valid_user_id(user_id: str) -> bool:
    """Whether ``check_user_id`` passes (historical ids included)."""
    return len(user_id) <= MAX_IDENTIFIER_BYTES and _is_user_id(user_id)


# Requests about keys name hundreds of users, and again the same.
@lru_cache(maxsize=2_000)
def _is_user_id(user_id: str) -> bool:
    return _passes(check_user_id, user_id)


def is_valid_room_alias(alias: str) -> bool:
    """Whether ``check_room_alias`` passes."""
    return _passes(check_room_alias, alias)


def is_valid_room_id(room_id: str) -> bool:
    """Whether ``check_room_id`` passes."""
    return _passes(check_room_id, room_id)


def is_valid_event_id(event_id: str) -> bool:
    """Whether ``check_event_id`` passes."""
    return _passes(check_event_id, event_id)


def is_valid_mxc_uri(uri: str) -> bool:
    """Whether ``parse_mxc_uri`` accepts ``uri``."""
    return _passes(parse_mxc_uri, uri)


def is_valid_opaque_identifier(text: str) -> bool:
    """Whether ``text`` keeps to the opaque identifier grammar (tokens, session ids, …)."""
    return _OPAQUE.fullmatch(text) is not None


def is_valid_namespaced_identifier(text: str) -> bool:
    """Whether ``text`` keeps to the common namespaced identifier grammar."""
    return _NAMESPACED.fullmatch(text) is not None


def _passes(check: Callable[[str], object], text: str) -> bool:
    try:
        check(text)
    except IdentifierError:
        return False
    return True


def _check_with_domain(text: str, sigil: str, kind: str) -> None:
    """Check ``<sigil>localpart:server_name``, the localpart free but for ``:`` and NUL."""
    localpart, colon, domain = text.partition(":")
    if text[:1] != sigil or not colon:
        raise IdentifierError(f"not a {kind}: {_shown(text)}")
    if "\0" in localpart:
        raise IdentifierError(f"NUL in a {kind}")
    parse_server_name(domain)
    _check_text(text, kind)


def _check_text(text: str, kind: str) -> None:
    """Check the length in bytes and that there is no lone surrogate."""
    try:
        length = len(text) if text.isascii() else len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise IdentifierError(f"a {kind} with a lone surrogate") from error
    if length > MAX_IDENTIFIER_BYTES:
        raise IdentifierError(f"a {kind} over {MAX_IDENTIFIER_BYTES} bytes")


def _shown(text: str) -> str:
    """A short, printable rendering of a hostile string for messages."""
    return ascii(text[:64])
