# SPDX-License-Identifier: Apache-2.0
"""OpenID tokens of other servers' users (server-server API, "OpenID"), redeemed by asking the server that gave them."""

from __future__ import annotations

from typing import Final

from federation.client.errors import RemoteError, RemoteFailure
from federation.membership.asking import as_told
from homeserver.errors import LimitExceeded, RemoteServerFailed, UnknownToken
from homeserver.needs import Protocol

MOST_UNDER_WAY: Final = 50
"""Questions at once: whoever presents a token need not be known here."""
_COME_AGAIN: Final = 1000
"""Milliseconds."""


class OpenIdCalls(Protocol):
    """The part of `FederationCalls` that is needed."""

    async def openid_userinfo(self, destination: str, access_token: str) -> str: ...


class FederatedOpenId:
    """`homeserver.calls.rtc.callers.RemoteTokens`. One per process."""

    def __init__(self, *, calls: OpenIdCalls) -> None:
        self._calls = calls
        self._under_way = 0

    async def user_of(self, server_name: str, token: str) -> str:
        """See `RemoteTokens`."""
        if self._under_way >= MOST_UNDER_WAY:
            raise LimitExceeded(_COME_AGAIN, "Other servers are being asked for too much at once")
        self._under_way += 1
        try:
            return await self._calls.openid_userinfo(server_name, token)
        except RemoteError as error:
            if 400 <= error.status < 500 and error.status != 429:
                raise UnknownToken("The server that gave the token does not know it") from error
            raise RemoteServerFailed(f"{error.destination} could not tell whose token that is") from error
        except RemoteFailure as failure:
            raise as_told(failure) from failure
        finally:
            self._under_way -= 1
