# SPDX-License-Identifier: Apache-2.0
"""Routes, declared beside their handlers, and the way from a path to one.

Owns path templates, the prefixes each route is mounted under, and percent-decoding: each segment once, after the
path was split, so that `%2F` within a segment is data. What a route's policies mean is carried out in `site`.

    Route("GET", "/rooms/{room_id}/state/{event_type}/{state_key}", self.state)
    Route("GET", "/rooms/{room_id}/state/{event_type}", self.state, trailing_slash=True)
    Route("GET", "/_matrix/client/versions", self.versions, under=ROOT, auth=Auth.OPTIONAL)

A literal segment is preferred to a parameter. A parameter is never empty; a route with `trailing_slash` also answers
with one `/` more.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote_to_bytes

import msgspec

from homeserver.errors import InvalidParam
from homeserver.web.replies import Reply

if TYPE_CHECKING:
    from homeserver.web.request import MatrixRequest

Handler = Callable[["MatrixRequest"], Awaitable[Reply]]
Resource = Literal["client", "federation", "media", "admin", "metrics", "health"]

#: Where every endpoint of the client-server API answers: clients of ten years name `r0`, some only `unstable`.
CLIENT: Final = (
    "/_matrix/client/v3",
    "/_matrix/client/r0",
    "/_matrix/client/v1",
    "/_matrix/client/unstable",
)
#: Server-server API.
FEDERATION_V1: Final = ("/_matrix/federation/v1",)
FEDERATION_V2: Final = ("/_matrix/federation/v2",)
KEY: Final = ("/_matrix/key/v2",)
MEDIA: Final = ("/_matrix/media/v3", "/_matrix/media/r0", "/_matrix/media/v1")
#: The template is the whole path.
ROOT: Final = ("",)


class Auth(Enum):
    """Who may call."""

    NONE = auto()
    """Anyone; a token is not looked at."""
    OPTIONAL = auto()
    """Anyone; a token that is there must be good, and fills `requester`."""
    GUEST_OK = auto()
    """Users, guests among them."""
    USER = auto()
    """Users, but no guests."""
    ADMIN = auto()
    """Administrators of this server."""
    APPSERVICE = auto()
    """Application services."""
    SERVER = auto()
    """Other servers, by their signature; fills `origin`. Mounted only where there is federation."""


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. `handler` gets what `auth`, `limit` and `max_body` have let through."""

    method: str
    template: str
    handler: Handler
    under: tuple[str, ...] = CLIENT
    """Prefixes of the template."""
    also: tuple[str, ...] = ()
    """Whole further templates, with the same parameters (unstable names of the endpoint)."""
    auth: Auth = Auth.USER
    limit: str | None = None
    """The class of `rate_limits` that counts it; None: `reads` for GET, `writes` for the rest."""
    max_body: int | None = None
    """Bytes; None: as much as is usual for the resource, see `Site.body_limit`."""
    spool: bool = False
    """The body is no JSON and may be large: it goes to disk as it comes, once its sender is known (`request.spool`)."""
    trailing_slash: bool = False
    abandon: bool = False
    """Cancel the handler where it waits when the client goes away: for what changes nothing."""
    locked_ok: bool = False
    """Whether a locked account may call (log-out)."""
    suspended_ok: bool = True
    """Whether a suspended account may call (client-server API, "Account suspension")."""
    statuses: Mapping[str, int] = field(default_factory=dict)
    """Error code → status, where this endpoint's differs from `statuses.STATUSES`."""
    resource: Resource = "client"
    besides: tuple[Resource, ...] = ()
    """Further resources whose listeners answer it."""
    name: str = ""
    """How logs and metrics call it; empty: its first path."""
    label: str = field(init=False, compare=False)
    """`name`, or what stands for it."""
    counted_as: str = field(init=False, compare=False)
    """`limit`, or what stands for it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.name or self.paths[0])
        of_servers = "server_" if self.auth is Auth.SERVER else ""
        usual = f"{of_servers}{'reads' if self.method == 'GET' else 'writes'}"
        object.__setattr__(self, "counted_as", self.limit or usual)

    @property
    def paths(self) -> tuple[str, ...]:
        """Every template it is mounted at."""
        return tuple(prefix + self.template for prefix in self.under) + self.also

    @property
    def resources(self) -> frozenset[Resource]:
        """A listener that serves any of them answers it."""
        return frozenset((self.resource, *self.besides))


class Match(msgspec.Struct, frozen=True):
    """A route and the parameters of a path."""

    route: Route
    parameters: Mapping[str, str]


class WrongMethod(Exception):
    """There is such a path, but not for that method."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = tuple(sorted({*allowed, "OPTIONS"}))
        super().__init__(", ".join(self.allowed))


class _Endpoint:
    """A route as mounted at one template."""

    __slots__ = ("names", "route")

    def __init__(self, route: Route, names: tuple[str, ...]) -> None:
        self.route = route
        self.names = names


_NONE: Final[Mapping[str, Any]] = {}


class _Node:
    """One segment of the mounted templates."""

    __slots__ = ("endpoints", "literals", "parameter")

    def __init__(self) -> None:
        # There are thousands: each has a mapping of its own once there is something in it.
        self.literals: Mapping[str, _Node] = _NONE
        self.parameter: _Node | None = None
        self.endpoints: Mapping[str, _Endpoint] = _NONE

    def child(self, segment: str) -> "_Node":
        """The node below it, made if there is none."""
        if segment not in self.literals:
            self.literals = {**self.literals, segment: _Node()}
        return self.literals[segment]


class Router:
    """Finds the route of a request among those mounted here."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        # Whole paths without parameters, as they stand in requests → method → what the tree finds.
        self._whole: dict[bytes, dict[str, Match]] = {}
        for route in routes:
            endpoints: dict[tuple[str, ...], _Endpoint] = {}
            for template in route.paths:
                self._mount(route, template, endpoints)

    def _mount(self, route: Route, template: str, endpoints: dict[tuple[str, ...], _Endpoint]) -> None:
        """`endpoints` are the route's, by the names of their parameters."""
        if not template.startswith("/"):
            raise ValueError(f"{template!r} does not begin with a slash")
        node, names = self._root, []
        for segment in template[1:].split("/"):
            if segment.startswith("{") and segment.endswith("}"):
                names.append(segment[1:-1])
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            else:
                node = node.child(segment)
        if route.method in node.endpoints:
            raise ValueError(f"{route.method} {template} is mounted twice")
        endpoint = endpoints.setdefault(tuple(names), _Endpoint(route, tuple(names)))
        node.endpoints = {**node.endpoints, route.method: endpoint}
        if not names:
            self._whole.setdefault(template.encode(), {})[route.method] = Match(route, {})

    def match(self, method: str, path: bytes) -> Match | None:
        """The route of a request, or None if there is no such path. HEAD is answered by GET.

        Raises WrongMethod, and InvalidParam where a parameter is not UTF-8 or contains NUL.
        """
        wanted = "GET" if method == "HEAD" else method
        whole = self._whole.get(path)
        if whole is not None and wanted in whole:
            return whole[wanted]
        found = self._straight(wanted, path) if path.isascii() else None
        if found is not None:
            return found
        segments = [_decoded(segment) for segment in path[1:].split(b"/")]
        search = _Search(wanted, segments, slash=False)
        found = search.below(self._root, 0)
        if found is not None:
            return found
        allowed = search.allowed
        if segments[-1] == "" and len(segments) > 1:
            search = _Search(wanted, segments[:-1], slash=True)
            found = search.below(self._root, 0)
            if found is not None:
                return found
            allowed |= search.allowed
        if allowed:
            raise WrongMethod(allowed | ({"HEAD"} if "GET" in allowed else set()))
        return None

    def _straight(self, method: str, path: bytes) -> Match | None:
        """What `_Search` finds first, where it need not turn back to find it; None: that is for it to say."""
        node, values = self._root, []
        for segment in path.decode("ascii")[1:].split("/"):
            text = segment
            if "%" in segment:
                known = segment[:3] in _REMEMBERED and len(segment) <= _LONGEST_REMEMBERED
                decoded = _remembered(segment) if known else _decoded(segment.encode("ascii"))
                if decoded is None:
                    return None
                text = decoded
            child = node.literals.get(text)
            if child is None:
                child = node.parameter
                if child is None or not text:
                    return None
                values.append(text)
            node = child
        endpoint = node.endpoints.get(method)
        return (
            None
            if endpoint is None
            else Match(endpoint.route, dict(zip(endpoint.names, values, strict=True)))
        )


class _Search:
    """One path on its way through the tree."""

    __slots__ = ("allowed", "method", "segments", "slash", "values")

    def __init__(self, method: str, segments: list[str | None], *, slash: bool) -> None:
        self.method = method
        self.segments = segments
        self.slash = slash  # a last, empty segment was taken off
        self.values: list[str | None] = []
        self.allowed: set[str] = set()  # methods of the endpoints that fit the path

    def below(self, node: _Node, at: int) -> Match | None:
        """The endpoint at or below `node` for the segments from `at` on."""
        if at == len(self.segments):
            return self._endpoint(node)
        segment = self.segments[at]
        if segment is not None:
            literal = node.literals.get(segment)
            if literal is not None:
                found = self.below(literal, at + 1)
                if found is not None:
                    return found
        if node.parameter is None or segment == "":
            return None
        # A broken segment still finds its place, to be refused there: elsewhere it is only an unknown path.
        self.values.append(segment)
        found = self.below(node.parameter, at + 1)
        self.values.pop()
        return found

    def _endpoint(self, node: _Node) -> Match | None:
        endpoint = node.endpoints.get(self.method)
        if endpoint is None or (self.slash and not endpoint.route.trailing_slash):
            self.allowed.update(
                method
                for method, each in node.endpoints.items()
                if each.route.trailing_slash or not self.slash
            )
            return None
        parameters: dict[str, str] = {}
        for name, value in zip(endpoint.names, self.values, strict=True):
            if value is None:
                raise InvalidParam(f"Path parameter {name} is not UTF-8 or contains NUL")
            parameters[name] = value
        return Match(endpoint.route, parameters)


def _decoded(segment: bytes) -> str | None:
    """None where it is not UTF-8 or contains NUL, which no identifier can and Postgres cannot store."""
    if b"%" in segment:
        segment = unquote_to_bytes(segment)
    try:
        text = segment.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


#: How identifiers of rooms, users and aliases begin, which come again and again; those of events do not.
_REMEMBERED: Final = frozenset(("%21", "%40", "%23"))
_LONGEST_REMEMBERED: Final = 256


@lru_cache(1024)
def _remembered(segment: str) -> str | None:
    return _decoded(segment.encode("ascii"))
