# SPDX-License-Identifier: Apache-2.0
"""From an HTTP request to whoever it counts for while the server is busy, before it is known who sent it.

Owns that guess, which decides about turns and about nothing else: the user whose token is remembered, the server that
lately proved its name from this address, else the address. So whoever claims to be somebody else stands in line with
those of his own address.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from homeserver.errors import InvalidParam, LimitExceeded, UnknownToken
from homeserver.web.addresses import counted_as
from homeserver.web.admission import Admission, Entry
from homeserver.web.exchange import Exchange
from homeserver.web.kinds import Kind, kind_of, waits
from homeserver.web.query import Query
from homeserver.web.routing import Auth
from homeserver.web.senders import Sender

MOST_PROVEN: Final = 10_000


class Doorway:
    """Of one site. All of it is for when `Admission.busy` is set."""

    def __init__(
        self,
        admission: Admission,
        sender: Callable[[Exchange], Sender],
        begin: Callable[[Exchange, Entry], None],
        refuse: Callable[[Exchange, LimitExceeded], None],
    ) -> None:
        self.begin = begin
        self.refuse = refuse
        self._admission = admission
        self._sender = sender
        # Address and server, of those whose signature held while the server was busy; the oldest first.
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()

    def ask(self, exchange: Exchange) -> bool:
        """Whether the request goes by; else it is begun or refused in its time."""
        assert exchange.match is not None
        route, query = exchange.match.route, Query(exchange.query)
        kind, user = kind_of(route, query), self.counted_for(exchange)
        if kind is Kind.FREE:
            if self._admission.passes_free(user):
                return True
            kind = Kind.ORDINARY
        room = exchange.match.parameters.get("room_id")
        takes_place = not waits(route, query)
        self._admission.ask(_Request(self, exchange, kind, user, room, takes_place=takes_place))
        return False

    def counted_for(self, exchange: Exchange) -> str:
        """The user, the server or the address a request counts for."""
        assert exchange.match is not None
        sender = self._sender(exchange)
        address = counted_as(sender.address)
        if exchange.match.route.auth is Auth.SERVER:
            origin = _origin_of(sender.authorization[-1]) if sender.authorization else ""
            return origin if (address, origin) in self._proven else address
        try:
            token = sender.token_beside(exchange.query)
        except (UnknownToken, InvalidParam):  # as will be answered
            return address
        return (token is not None and self._admission.remembered(token)) or address

    def proved(self, address: str, origin: str) -> None:
        """A server's signature held; `address` as limits count it."""
        proof = (address, origin)
        self._proven[proof] = None
        self._proven.move_to_end(proof)
        if len(self._proven) > MOST_PROVEN:
            self._proven.popitem(last=False)


class _Request(Entry):
    """One of HTTP."""

    __slots__ = ("_doorway", "_exchange")

    def __init__(
        self,
        doorway: Doorway,
        exchange: Exchange,
        kind: Kind,
        user: str,
        room: str | None,
        *,
        takes_place: bool,
    ) -> None:
        super().__init__(kind, user, room, takes_place=takes_place)
        self._doorway = doorway
        self._exchange = exchange

    def begin(self) -> None:
        self._doorway.begin(self._exchange, self)

    def refuse(self, error: LimitExceeded) -> None:
        self._doorway.refuse(self._exchange, error)

    def gone(self) -> bool:
        return self._exchange.channel is None


def _origin_of(claim: str) -> str:
    """The `origin` of an X-Matrix header, empty where there is none that can be read."""
    _, _, rest = claim.partition("origin=")
    return rest.partition(",")[0].strip().strip('"').lower()
