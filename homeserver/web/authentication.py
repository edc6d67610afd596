# SPDX-License-Identifier: Apache-2.0
"""Who asks: the token of a request, and what the rest of the server tells the web layer of its owner.

Owns taking the token from the request (client-server API, "Using access tokens") and the interfaces of what knows
tokens and of what knows other servers' signatures. Does not own either: an `Authenticator` and a `ServerAuthenticator`
are given.
"""

from typing import TYPE_CHECKING

import msgspec

from homeserver.errors import UnknownToken
from homeserver.needs import Protocol

if TYPE_CHECKING:
    from homeserver.web.request import MatrixRequest


class Requester(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The user on whose behalf a request is made, as its token says; made for each request."""

    user_id: str
    device_id: str | None = None
    """None for an application service that names no device."""
    is_guest: bool = False
    is_admin: bool = False
    is_locked: bool = False
    is_suspended: bool = False
    appservice_id: str | None = None
    """The application service whose token this is."""
    rate_limited: bool = True
    expires_ts: int | None = None
    """When the token ends by itself, in milliseconds since 1970; None: it does not."""


class Authenticator(Protocol):
    """Knows access tokens."""

    async def authenticate(self, token: str, request: "MatrixRequest") -> Requester:
        """The requester of a token. Reads of the request what identity assertion needs (`user_id`, `device_id`).

        Raises UnknownToken, with soft_logout where the session can be resumed, and Forbidden for an assertion
        that is not the application service's to make. A locked account is returned, and refused by route.
        """
        ...


class ServerAuthenticator(Protocol):
    """Knows other servers' signatures."""

    async def authenticate(self, request: "MatrixRequest") -> str:
        """The name of the server that signed the request (server-server API, "Request Authentication").

        Raises Unauthorized, NotJson and BadJson for a body that cannot have been signed, and LimitExceeded where to
        find out would cost too much just now.
        """
        ...


def token_of(authorization: list[str], query: list[str]) -> str | None:
    """The access token of a request, from its Authorization headers and `access_token` parameters; None: none.

    Raises UnknownToken where several different ones are given: taking either could act for the wrong user.
    """
    tokens = {token for token in query if token}
    for value in authorization:
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            tokens.add(token.strip())
    if len(tokens) > 1:
        raise UnknownToken("More than one access token was given")
    return tokens.pop() if tokens else None
