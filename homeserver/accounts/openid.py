# SPDX-License-Identifier: Apache-2.0
"""OpenID tokens: a user proves to a third party who they are. Client-server API, "OpenID"; federation API, "OpenID".

Owns their life of an hour. Such a token opens nothing else.
"""

from typing import Final

from msgspec import Struct

from homeserver.accounts.credentials import Clock, new_secret, token_hash
from homeserver.errors import UnknownToken
from storage.openid_tokens import OpenIdTokenStore

_LIFETIME_SECONDS: Final = 3600


class OpenIdToken(Struct, frozen=True):
    """A fresh token."""

    token: str
    expires_in: int
    """Seconds."""

    def __repr__(self) -> str:
        return "OpenIdToken(…)"


class OpenId:
    """Makes and redeems OpenID tokens."""

    def __init__(self, tokens: OpenIdTokenStore, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock

    async def make(self, user_id: str) -> OpenIdToken:
        """A token that stands for the user."""
        token = new_secret()
        expires_ts = self._clock() + _LIFETIME_SECONDS * 1000
        await self._tokens.add(token_hash(token), user_id, expires_ts)
        return OpenIdToken(token, _LIFETIME_SECONDS)

    async def user_of(self, token: str) -> str:
        """The user a token stands for. Raises UnknownToken."""
        user_id = await self._tokens.find(token_hash(token), self._clock())
        if user_id is None:
            raise UnknownToken("Access token unknown or expired")
        return user_id
