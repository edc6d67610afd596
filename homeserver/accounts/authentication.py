# SPDX-License-Identifier: Apache-2.0
"""Whose an access token is.

Owns the way from a token to its owner: from memory if possible, else by one query. What an owner may do is decided
where it is done; guests, locked and suspended users are told apart here and judged by the caller.
"""

from functools import lru_cache
from typing import Final

from homeserver.accounts.credentials import Clock, token_hash
from homeserver.accounts.sightings import Sightings
from homeserver.accounts.token_cache import TokenCache
from homeserver.errors import UnknownToken
from storage.database import Database
from storage.tokens import REVOKED, TokenOwner, TokenStore

_MOST_HASHED: Final = 4096
_MOST_LOOKS: Final = 5
"""How often a token is looked up while tokens, be they others', are being revoked."""
_LONGEST_HASHED: Final = 256
"""Characters of a token whose hash is remembered: those given out are shorter, those of strangers may be anything."""


class Authentication:
    """Authenticates access tokens; `start` connects it with the other processes."""

    def __init__(self, tokens: TokenStore, cache: TokenCache, sightings: Sightings, clock: Clock) -> None:
        self._tokens = tokens
        self._cache = cache
        self._sightings = sightings
        self._clock = clock
        # A hash never changes; whose it is is asked each time.
        self._remembered_hash = lru_cache(_MOST_HASHED)(token_hash)

    async def start(self, database: Database) -> None:
        """Hear of what other processes revoke. Must be done before the first request is served."""
        await database.listen(REVOKED, self._cache.forget, self._cache.forget_all)

    async def authenticate(self, token: str, *, ip: str, user_agent: str) -> TokenOwner:
        """As `owner_of`, for a request from `ip`: the device was seen."""
        owner = self._cache.get(self._hash(token))
        if owner is None or self._is_expired(owner):
            owner = await self.owner_of(token)
        self._sightings.note(owner.user_id, owner.device_id, ip, user_agent)
        return owner

    def remembered(self, token: str) -> str | None:
        """The user whose token it is, if that is in memory; it may have been revoked since, or have expired."""
        owner = self._cache.get(self._hash(token))
        return None if owner is None else owner.user_id

    async def owner_of(self, token: str) -> TokenOwner:
        """Who holds a token in force.

        Raises UnknownToken, with soft log-out if the token only expired while its device still exists.
        """
        hashed = self._hash(token)
        owner = self._cache.get(hashed)
        if owner is None:
            epoch, owner = await self._look_up(hashed)
            if owner.unused and not self._is_expired(owner):
                await self._tokens.used(owner, self._clock())
            self._cache.put(hashed, owner, epoch)
        if self._is_expired(owner):
            raise UnknownToken("The access token has expired", soft_logout=True)
        return owner

    async def _look_up(self, hashed: bytes) -> tuple[int, TokenOwner]:
        """The owner, with the cache's epoch from before. Raises UnknownToken.

        What was revoked during a look-up is looked up again: whoever is let in goes by what holds then, and asks again
        only where something is revoked after that.
        """
        looks = 0
        while True:
            looks += 1
            epoch = self._cache.epoch
            owner = await self._tokens.find(hashed)
            if owner is None or owner.deactivated:
                raise UnknownToken("Unknown access token")
            if epoch == self._cache.epoch or looks == _MOST_LOOKS:
                return epoch, owner

    def _hash(self, token: str) -> bytes:
        return self._remembered_hash(token) if len(token) <= _LONGEST_HASHED else token_hash(token)

    def _is_expired(self, owner: TokenOwner) -> bool:
        return owner.expires_ts is not None and owner.expires_ts <= self._clock()
