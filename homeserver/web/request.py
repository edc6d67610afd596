# SPDX-License-Identifier: Apache-2.0
"""A request as a handler sees it.

Owns the reading side of an exchange: parameters, query, body, who asks and from where. Knows nothing of the connection
but that it may go away.
"""

from typing import Any, Final, TypeVar, overload

from homeserver.errors import BadJson
from homeserver.needs import Protocol
from homeserver.spooling import Spool
from homeserver.web import bodies
from homeserver.web.addresses import counted_as
from homeserver.web.authentication import Requester
from homeserver.web.heads import Fields
from homeserver.web.query import Query
from homeserver.web.routing import Auth, Match
from homeserver.web.senders import Sender
from homeserver.web.signals import Signal

T = TypeVar("T")

_UNREAD: Final = object()


class Arrived(Protocol):
    """A complete request on its connection, as `exchange` has it."""

    id: str
    method: str
    path: bytes
    target: bytes
    query: bytes
    fields: Fields
    spool: Spool | None

    @property
    def disconnected(self) -> Signal: ...


class MatrixRequest:
    """One request to one route."""

    __slots__ = (
        "_exchange",
        "_parameters",
        "_query",
        "_sender",
        "_signed",
        "content",
        "id",
        "method",
        "origin_or_none",
        "requester_or_none",
        "route",
        "shutting_down",
        "spool",
    )

    def __init__(
        self,
        exchange: Arrived,
        sender: Sender,
        match: Match,
        content: bytes,
        shutting_down: Signal,
    ) -> None:
        self._exchange = exchange
        self._sender = sender
        self._parameters = match.parameters
        self._query: Query | None = None
        self._signed: Any = _UNREAD
        self.id = exchange.id
        """Names the request in logs."""
        self.method = exchange.method
        self.route = match.route
        self.content = content
        """The body's bytes."""
        self.spool = exchange.spool
        """The body, for routes whose bodies are spooled; who does not keep it need not care for it."""
        self.shutting_down = shutting_down
        """Fires when the server stops: who waits for news answers with what there is."""
        self.requester_or_none: Requester | None = None
        """Who asks; None where the route needs no token and none was given."""
        self.origin_or_none: str | None = None
        """The server that signed the request; None where the route asks for no signature."""

    @property
    def path(self) -> str:
        """As sent, without the query."""
        return self._exchange.path.decode("latin-1")

    @property
    def target(self) -> str:
        """As sent, with the query: what a server's signature covers."""
        return self._exchange.target.decode("latin-1")

    @property
    def query(self) -> Query:
        """The parameters after the path."""
        query = self._query
        if query is None:
            query = self._query = Query(self._exchange.query)
        return query

    @property
    def address(self) -> str:
        """The client's IP address, as text: the peer's, or what a trusted proxy says."""
        return self._sender.address

    @property
    def secure(self) -> bool:
        """Whether the client came over TLS, to here or to a trusted proxy."""
        return self._sender.secure

    @property
    def disconnected(self) -> Signal:
        """Fires when the client goes away before it got the answer."""
        return self._exchange.disconnected

    @property
    def counted_as(self) -> str:
        """Whom rate limits by address count the request to."""
        return counted_as(self.address)

    @property
    def origin(self) -> str:
        """The server that asks, for routes of `Auth.SERVER`."""
        origin = self.origin_or_none
        assert origin is not None, f"{self.route.label} does not require a server's signature"
        return origin

    @property
    def requester(self) -> Requester:
        """Who asks, for routes that need a token."""
        requester = self.requester_or_none
        assert requester is not None, f"{self.route.label} does not require a token"
        return requester

    @overload
    def param(self, name: str) -> str: ...
    @overload
    def param(self, name: str, default: str) -> str: ...
    def param(self, name: str, default: str | None = None) -> str:
        """A parameter of the path, decoded. `default` is for templates that lack it."""
        if default is not None:
            return self._parameters.get(name, default)
        return self._parameters[name]

    def header(self, name: str) -> str | None:
        """The last header of that name; bytes beyond ASCII are read as Latin-1."""
        value = self._exchange.fields.last(name.lower().encode("ascii"))
        return None if value is None else value.decode("latin-1")

    def headers(self, name: str) -> list[str]:
        """Every header of that name."""
        return [value.decode("latin-1") for value in self._exchange.fields.all(name.lower().encode("ascii"))]

    @property
    def user_agent(self) -> str | None:
        """What the client calls itself."""
        return self._sender.user_agent

    def json_object(self, *, empty_ok: bool = False) -> dict[str, Any]:
        """The body as a JSON object; `empty_ok`: no body is `{}`. Raises NotJson and BadJson."""
        if not self.content and empty_ok:
            return {}
        value = self.json()
        if type(value) is not dict:
            raise BadJson("The request body must be a JSON object")
        return value

    def json(self) -> Any:
        """The body as JSON of any kind. Raises NotJson and BadJson.

        What another server signed is taken with any integer, exactly: old room versions allow it in events. It is
        parsed once, for its signature and its handler. A client's body is not kept: it may take many times its bytes,
        which are all that is counted, and the request may have to wait.
        """
        if self.route.auth is not Auth.SERVER:
            return bodies.parse_json(self.content)
        if self._signed is _UNREAD:
            self._signed = bodies.parse_signed(self.content)
        return self._signed

    def body(self, kind: type[T], *, empty_ok: bool = False) -> T:
        """The body as a declared type (see `bodies`). Raises NotJson and BadJson, naming the field."""
        if self.route.auth is Auth.SERVER:
            return bodies.typed(self.json_object(empty_ok=empty_ok), self.content, kind)
        return bodies.parse_typed(self.content, kind, empty_ok=empty_ok)
