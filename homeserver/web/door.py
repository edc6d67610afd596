# SPDX-License-Identifier: Apache-2.0
"""From an HTTP request to whoever it counts for while the server is busy, before it is known who sent it.

Owns that guess, which decides about turns and about nothing else: the user whose token is remembered, the server that
lately proved its name from this address, else the address. So whoever claims to be somebody else stands in line with
those of his own address.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from homeserver.errors import LimitExceeded
from homeserver.web.addresses import ProxyTrust, counted_as
from homeserver.web.admission import Admission, Entry
from homeserver.web.exchange import Exchange
from homeserver.web.kinds import Kind, kind_of, waits
from homeserver.web.routing import Auth

Begin = Callable[[Exchange, Entry], None]
Refuse = Callable[[Exchange, LimitExceeded], None]
MOST_PROVEN: Final = 10_000
_BEARER: Final = b"bearer "


class Doorway:
    """Of one site. All of it is for when `Admission.busy` is set."""

    def __init__(self, admission: Admission, trust: ProxyTrust, begin: Begin, refuse: Refuse) -> None:
        self._admission = admission
        self._trust = trust
        self._begin = begin
        self._refuse = refuse
        # Address and server, of those whose signature held while the server was busy; the oldest first.
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()

    def ask(self, exchange: Exchange) -> bool:
        """Whether the request goes by; else it is begun or refused in its time."""
        assert exchange.match is not None
        route, query = exchange.match.route, exchange.query
        kind, user = kind_of(route, query), self.counted_for(exchange)
        if kind is Kind.FREE:
            if self._admission.passes_free(user):
                return True
            kind = Kind.ORDINARY
        self._admission.ask(
            Entry(
                kind=kind,
                user=user,
                room=exchange.match.parameters.get("room_id"),
                begin=lambda entry: self._begin(exchange, entry),
                refuse=lambda error: self._refuse(exchange, error),
                gone=lambda: exchange.channel is None,
                takes_place=not waits(route, query),
            )
        )
        return False

    def counted_for(self, exchange: Exchange) -> str:
        """The user, the server or the address a request counts for."""
        assert exchange.match is not None
        claim = exchange.fields.last(b"authorization") or b""
        address = self._address(exchange)
        if exchange.match.route.auth is Auth.SERVER:
            origin = _origin_of(claim)
            return origin if (address, origin) in self._proven else address
        if claim[:7].lower() == _BEARER:
            return self._admission.remembered(claim[7:].strip().decode("latin-1")) or address
        return address

    def proved(self, address: str, origin: str) -> None:
        """A server's signature held; `address` as limits count it."""
        proof = (address, origin)
        self._proven[proof] = None
        self._proven.move_to_end(proof)
        if len(self._proven) > MOST_PROVEN:
            self._proven.popitem(last=False)

    def _address(self, exchange: Exchange) -> str:
        assert exchange.channel is not None
        peer = exchange.channel.peer
        if not self._trust.is_trusted(peer):
            return counted_as(peer)
        forwarded = exchange.fields.all(b"x-forwarded-for")
        return counted_as(self._trust.client(peer, [value.decode("latin-1") for value in forwarded]))


def _origin_of(claim: bytes) -> str:
    """The `origin` of an X-Matrix header, empty where there is none that can be read."""
    _, _, rest = claim.partition(b"origin=")
    return rest.partition(b",")[0].strip().strip(b'"').decode("latin-1").lower()
