# SPDX-License-Identifier: Apache-2.0
"""What a handler may return, and what every response carries.

Owns the kinds of reply and the headers no response goes without. Writing them to a connection is `exchange`'s.

- a `dict`: 200 with it as JSON;
- `JsonBytes(encoded)`: 200 with JSON that was encoded elsewhere, byte for byte;
- `Response(status, body, headers)`: anything else; `json_response(status, value)` for JSON with another status;
- `FileReply(path, size, headers)`: a file, streamed (see `files`);
- `Upgrade(build)`: the connection leaves HTTP (see `upgrades`).

Every response has the CORS headers (client-server API, "Web Browser Clients"), redirects and failures included.
JSON is `Cache-Control: no-store` unless the reply says otherwise: what a client reads is somebody's.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import orjson
from msgspec import Struct, field

CORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
        "Access-Control-Allow-Headers": (
            "X-Requested-With, Content-Type, Authorization, Date, Accept, If-Match, If-None-Match"
        ),
        "Access-Control-Expose-Headers": "ETag, Expires, Last-Modified, Location, Retry-After, Server",
        "Access-Control-Max-Age": "86400",
    }
)
JSON: Final = "application/json"
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_PLAIN_JSON_HEADERS: Final[Mapping[str, str]] = MappingProxyType({"Content-Type": JSON})

#: From the peer's address to the protocol of a connection (Twisted's IAddress and IProtocol, which type as nothing).
BuildProtocol = Callable[[Any], Any]

REASONS: Final[Mapping[int, str]] = MappingProxyType({status.value: status.phrase for status in HTTPStatus})


class JsonBytes(Struct, frozen=True):
    """200 with a JSON object that is already encoded."""

    encoded: bytes


class Response(Struct, frozen=True):
    """A whole response. `headers` are those of its own; CORS, Date, Server and Content-Length are added.

    A header value must not hold CR or LF; it is refused when written.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class FileReply(Struct, frozen=True):
    """A file as a response, of which a client may ask for a range. `etag` is a quoted validator.

    `before` and `after` surround its bytes, where the file is one part of several.
    """

    path: Path
    size: int
    headers: Mapping[str, str]
    etag: str | None = None
    before: bytes = b""
    after: bytes = b""


class Upgrade(Struct, frozen=True):
    """The connection leaves HTTP: `build(peer)` makes the protocol that gets it, this request's bytes first."""

    build: BuildProtocol


Reply = dict[str, object] | Mapping[str, object] | JsonBytes | Response | FileReply | Upgrade


def json_response(status: int, value: object, headers: Mapping[str, str] = _NO_HEADERS) -> Response:
    """JSON with a status or headers of its own."""
    return Response(status, orjson.dumps(value), {**_PLAIN_JSON_HEADERS, **headers})


def redirect(location: str, status: int = 302) -> Response:
    """To another URL."""
    return Response(status, b"", {"Location": location})
