# SPDX-License-Identifier: Apache-2.0
"""Requests between servers are signed: X-Matrix, made and checked (server-server API, "Request Authentication").

Owns the `Authorization` header in both directions, what the signature covers, and what it may cost to find out that a
request is not who it says. Does not own keys: those of others come from a `RequestKeys`.

A request is checked in the order of what the checks cost: the header's grammar, the names in it, whether its key is
known, and only then the body, which is parsed once, for the signature and the handler alike. To fetch a key costs more
than all that, at the will of somebody who has proved nothing, so it is counted by address, and few requests at a time
may wait for one.
"""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

import orjson
from msgspec import Struct

from homeserver.errors import LimitExceeded, Unauthorized
from homeserver.needs import Protocol
from homeserver.protocol.canonical_json import encode_canonical, encode_checked
from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.identifiers import check_server_name, parse_key_id
from homeserver.protocol.signing import ALGORITHM, SigningKey, VerifyKey
from homeserver.web.rate_limits import RateLimits
from homeserver.web.request import MatrixRequest

#: Signatures of one request: a server has one key, during a change two.
MOST_SIGNATURES: Final = 4
#: Requests that wait for a key at once, from one address and from all: their bodies are held meanwhile.
MOST_WAITING_BY_ADDRESS: Final = 8
MOST_WAITING: Final = 200
_LONGEST_HEADER: Final = 4096
_RETRY_MS: Final = 5000

_SCHEME: Final = re.compile(r"X-Matrix +", re.IGNORECASE)
_WORD: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# Colons, which no token holds, stand unquoted in the headers of old servers.
_BARE: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z:]+"
_QUOTED: Final = r'"((?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+)"'
_PARAMETER: Final = re.compile(rf"({_WORD})[ \t]*+=[ \t]*+(?:({_BARE})|{_QUOTED})[ \t]*+(?=,|\Z)")
_SEPARATOR: Final = re.compile(r"[ \t]*+,[ \t,]*+")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


class Credentials(Struct, frozen=True):
    """What one X-Matrix header says."""

    origin: str
    destination: str | None
    key_id: str
    signature: str


class RequestKeys(Protocol):
    """Knows which keys a server signs requests with now."""

    async def known_request_keys(self, server_name: str, key_ids: Collection[str]) -> Mapping[str, VerifyKey]:
        """Those of the keys that are known here already and valid now, by id."""
        ...

    async def request_keys(self, server_name: str, key_ids: Collection[str]) -> Mapping[str, VerifyKey]:
        """Those that are valid now, asking the server if that may help. Never raises for what another server does."""
        ...

    def may_renew(self, server_name: str) -> bool:
        """Whether it is time to ask the server for its keys again."""
        ...

    async def renewed_request_keys(
        self, server_name: str, key_ids: Collection[str]
    ) -> Mapping[str, VerifyKey]:
        """As `request_keys`, asking although they are known: another may stand under the same id by now."""
        ...


# Made


def signed_bytes(
    *, origin: str, destination: str | None, method: str, target: str, content: bytes | None
) -> bytes:
    """What the signature covers; `content` is the body's canonical JSON, None if there is no body."""
    value: dict[str, Any] = {"method": method, "uri": target, "origin": origin}
    if destination is not None:
        value["destination"] = destination
    if content is not None:
        value["content"] = orjson.Fragment(content)
    return encode_checked(value)


def authorization(
    *, origin: str, destination: str, key: SigningKey, method: str, target: str, content: bytes | None
) -> str:
    """The value of the `Authorization` header of a request of ours.

    `target` is path and query exactly as sent, `content` the body's canonical JSON or None for no body.
    """
    signature = key.sign(
        signed_bytes(origin=origin, destination=destination, method=method, target=target, content=content)
    )
    return f'X-Matrix origin="{origin}",destination="{destination}",key="{key.key_id}",sig="{signature}"'


# Read


def parse_authorization(value: str) -> Credentials | None:
    """What one `Authorization` header says, None for another scheme. Raises Unauthorized for a broken one.

    Grammar: RFC 9110, sections 11.4 and 5.6.2, and colons in what is not quoted.
    """
    value = value.strip(" \t")
    scheme = _SCHEME.match(value)
    if scheme is None:
        if value[:8].lower() == "x-matrix":
            raise Unauthorized("The X-Matrix header has no parameters")
        return None
    if len(value) > _LONGEST_HEADER:
        raise Unauthorized("The X-Matrix header is too long")
    parameters = _parameters(value[scheme.end() :])
    missing = [name for name in ("origin", "key", "sig") if not parameters.get(name)]
    if missing:
        raise Unauthorized(f"The X-Matrix header lacks {', '.join(missing)}")
    return Credentials(
        parameters["origin"], parameters.get("destination"), parameters["key"], parameters["sig"]
    )


def _parameters(text: str) -> dict[str, str]:
    """Names, in lower case, and values, unescaped. Raises Unauthorized."""
    found: dict[str, str] = {}
    leading = _SEPARATOR.match(text)
    at = leading.end() if leading else 0
    while at < len(text):
        match = _PARAMETER.match(text, at)
        if match is None:
            raise Unauthorized("The X-Matrix header is not a list of name=value pairs")
        name, bare, quoted = match[1].lower(), match[2], match[3]
        if name in found:
            raise Unauthorized("The X-Matrix header has a parameter twice")
        found[name] = bare if bare is not None else _ESCAPED.sub(r"\1", quoted)
        at = match.end()
        separator = _SEPARATOR.match(text, at)
        if separator is not None:
            at = separator.end()
    return found


# Checked


class RequestAuthentication:
    """Says which server a request is from. A `homeserver.web.authentication.ServerAuthenticator`."""

    def __init__(
        self,
        *,
        server_name: str,
        keys: RequestKeys,
        limits: RateLimits,
        heard: Callable[[str], None] = lambda _origin: None,
    ) -> None:
        """`heard` is told of each server that has just proven to be there."""
        self._server_name = server_name
        self._keys = keys
        self._limits = limits
        self._heard = heard
        self._waiting: Counter[str] = Counter()

    async def authenticate(self, request: MatrixRequest) -> str:
        """The server that signed the request.

        Raises Unauthorized; NotJson, BadJson and CanonicalJsonError for a body that nobody can have signed;
        LimitExceeded where a key would have to be fetched and too many were already.
        """
        given = self._credentials(request.headers("Authorization"))
        origin, destination = given[0].origin, given[0].destination
        key_ids = [each.key_id for each in given]
        keys = await self._keys.known_request_keys(origin, key_ids)
        if not keys:
            keys = await self._waiting_for(
                self._keys.request_keys, origin, key_ids, address=request.counted_as
            )
        if not keys:
            raise Unauthorized(
                f"No valid key of {origin} with the id {' or '.join(key_ids)} is known, nor could one be fetched"
            )
        content = encode_canonical(request.json(), strict=False) if request.content else None
        data = signed_bytes(
            origin=origin,
            destination=destination,
            method=request.method,
            target=request.target,
            content=content,
        )
        if not _holds(given, keys, data) and self._keys.may_renew(origin):
            # A server that was set up anew, and chose the same key id.
            keys = await self._waiting_for(
                self._keys.renewed_request_keys, origin, key_ids, address=request.counted_as
            )
        if not _holds(given, keys, data):
            raise Unauthorized(
                f"The signature of {origin} by {' or '.join(key_ids)} does not match the request: method, path and "
                "query as sent, destination and body must be what was signed"
            )
        self._heard(origin)
        return origin

    def _credentials(self, headers: Sequence[str]) -> list[Credentials]:
        """Of one origin, by different keys. Raises Unauthorized."""
        given = [each for each in map(parse_authorization, headers) if each is not None]
        if not given:
            raise Unauthorized("The request has no X-Matrix Authorization header")
        if len(given) > MOST_SIGNATURES:
            raise Unauthorized("The request has too many signatures")
        if len({(each.origin, each.destination) for each in given}) > 1:
            raise Unauthorized("The request's signatures name different servers")
        if len({each.key_id for each in given}) < len(given):
            raise Unauthorized("The request has two signatures by one key")
        origin, destination = given[0].origin, given[0].destination
        if destination is not None and destination != self._server_name:
            raise Unauthorized(f"The request is for another server; this is {self._server_name}")
        _check_names(origin, given)
        if origin == self._server_name:
            raise Unauthorized("The request claims to be from this server itself")
        return given

    async def _waiting_for(
        self,
        ask: Callable[[str, Collection[str]], Awaitable[Mapping[str, VerifyKey]]],
        origin: str,
        key_ids: Sequence[str],
        *,
        address: str,
    ) -> Mapping[str, VerifyKey]:
        self._limits.check("key_fetches", address)
        if self._waiting[address] >= MOST_WAITING_BY_ADDRESS or self._waiting.total() >= MOST_WAITING:
            raise LimitExceeded(_RETRY_MS, "Too many requests wait for their servers' keys")
        self._waiting[address] += 1
        try:
            return await ask(origin, key_ids)
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]


def _holds(given: Sequence[Credentials], keys: Mapping[str, VerifyKey], data: bytes) -> bool:
    """Whether there is a signature by one of the keys, and every one by them is good."""
    checked = [keys[each.key_id].verifies(data, each.signature) for each in given if each.key_id in keys]
    return bool(checked) and all(checked)


def _check_names(origin: str, given: Sequence[Credentials]) -> None:
    try:
        check_server_name(origin)
    except IdentifierError as error:
        raise Unauthorized("The X-Matrix header's origin is not a server name") from error
    for each in given:
        try:
            algorithm = parse_key_id(each.key_id).algorithm
        except IdentifierError as error:
            raise Unauthorized("The X-Matrix header's key is not a key id") from error
        if algorithm != ALGORITHM:
            raise Unauthorized(f"Signatures must be by {ALGORITHM} keys")
