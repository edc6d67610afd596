# SPDX-License-Identifier: Apache-2.0
"""Whose an access token is.

Owns the way from a token to a `Requester`: from memory if possible, else by one query. What a requester may do is
decided where it is done; guests and locked users are told apart here and judged by the caller.
"""

from homeserver.accounts.credentials import Clock, token_hash
from homeserver.accounts.requester import Requester
from homeserver.accounts.sightings import Sightings
from homeserver.accounts.token_cache import TokenCache
from homeserver.errors import UnknownToken, UserLocked
from storage.database import Database
from storage.tokens import REVOKED, TokenOwner, TokenStore


class Authentication:
    """Authenticates access tokens; `start` connects it with the other processes."""

    def __init__(self, tokens: TokenStore, cache: TokenCache, sightings: Sightings, clock: Clock) -> None:
        self._tokens = tokens
        self._cache = cache
        self._sightings = sightings
        self._clock = clock

    async def start(self, database: Database) -> None:
        """Hear of what other processes revoke. Must be done before the first request is served."""
        await database.listen(REVOKED, self._cache.forget, self._cache.forget_all)

    async def authenticate(
        self, token: str, *, ip: str, user_agent: str, allow_locked: bool = False
    ) -> Requester:
        """The requester an access token stands for, seen at `ip`.

        Raises UnknownToken, with soft log-out if the token only expired while its device still exists, and UserLocked
        unless `allow_locked`.
        """
        owner = await self.owner_of(token)
        if owner.locked and not allow_locked:
            raise UserLocked
        self._sightings.note(owner.user_id, owner.device_id, ip, user_agent)
        return Requester(
            owner.user_id,
            owner.device_id,
            is_guest=owner.guest,
            is_admin=owner.admin,
            suspended=owner.suspended,
            locked=owner.locked,
        )

    async def owner_of(self, token: str) -> TokenOwner:
        """Who holds a token in force. Raises UnknownToken as `authenticate` does."""
        hashed = token_hash(token)
        owner = self._cache.get(hashed)
        if owner is None:
            epoch = self._cache.epoch
            owner = await self._tokens.find(hashed)
            if owner is None or owner.deactivated:
                raise UnknownToken("Unknown access token")
            if owner.unused:
                await self._tokens.used(owner, self._clock())
            self._cache.put(hashed, owner, epoch)
        if owner.expires_ts is not None and owner.expires_ts <= self._clock():
            raise UnknownToken("The access token has expired", soft_logout=True)
        return owner
