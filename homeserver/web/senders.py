# SPDX-License-Identifier: Apache-2.0
"""Who sends a request, as far as its connection and the fields of its head say.

Owns what is the same for every request of a connection that comes with the same fields, so that it is found out once:
clients that keep a connection send the same head again and again.
"""

from homeserver.web.addresses import ProxyTrust
from homeserver.web.authentication import token_of
from homeserver.web.heads import Fields
from homeserver.web.query import Query


class Sender:
    """Of requests with these fields on one connection."""

    __slots__ = ("address", "authorization", "secure", "token", "user_agent")

    def __init__(self, fields: Fields, peer: str, trust: ProxyTrust, *, secure: bool) -> None:
        """`peer`: the connection's other end; `secure`: whether the connection is encrypted."""
        self.address = peer
        """The client's IP address, as text: the peer's, or what a trusted proxy says."""
        self.secure = secure
        """Whether the client came over TLS, to here or to a trusted proxy."""
        if trust.is_trusted(peer):
            forwarded = fields.all(b"x-forwarded-for")
            if forwarded:
                self.address = trust.client(peer, [value.decode("latin-1") for value in forwarded])
            proto = fields.last(b"x-forwarded-proto")
            self.secure = secure or (proto is not None and proto.strip().lower() == b"https")
        agent = fields.last(b"user-agent")
        self.user_agent = None if agent is None else agent.decode("latin-1")
        self.authorization = [value.decode("latin-1") for value in fields.all(b"authorization")]
        self.token = token_of(self.authorization, []) if len(self.authorization) == 1 else None
        """The access token, where there is one Authorization field and it holds one."""

    def token_beside(self, query: bytes) -> str | None:
        """The access token of a request that has this query string besides. Raises UnknownToken and InvalidParam."""
        if b"access_token" not in query and len(self.authorization) < 2:
            return self.token
        return token_of(self.authorization, Query(query).strings("access_token"))
