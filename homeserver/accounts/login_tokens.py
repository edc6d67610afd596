# SPDX-License-Identifier: Apache-2.0
"""Login tokens: a logged-in client lets another one in. Client-server API, `POST /login/get_token`.

Owns their making and spending: each is good for one log-in, within two minutes and while the session that asked for
it lasts. A new password ends them all.
"""

from typing import Final

from msgspec import Struct

from homeserver.accounts.actor import Actor
from homeserver.accounts.credentials import Clock, new_secret, token_hash
from homeserver.accounts.stages import PASSWORD
from homeserver.accounts.uia import Auth, Operation, Uia
from homeserver.errors import UnknownToken
from storage.database import Transaction
from storage.login_tokens import LoginTokenStore

_LIFETIME_MS: Final = 120_000


class LoginToken(Struct, frozen=True):
    """A fresh `m.login.token`."""

    token: str
    expires_in_ms: int

    def __repr__(self) -> str:
        return "LoginToken(…)"


class LoginTokens:
    """Makes and spends login tokens."""

    def __init__(self, tokens: LoginTokenStore, uia: Uia, clock: Clock) -> None:
        self._tokens = tokens
        self._uia = uia
        self._clock = clock

    async def make(self, actor: Actor, auth: Auth) -> LoginToken:
        """A login token for another client of the requester.

        Always asks for authentication anew, as sessions serve one request. Raises UiaRequired, and UnknownToken if the
        requester was logged out meanwhile.
        """
        operation = Operation(
            name="POST login/get_token", user_id=actor.user_id, flows=[(PASSWORD,)], params={}
        )
        await self._uia.require(operation, auth)
        token = new_secret()
        until = self._clock() + _LIFETIME_MS
        if not await self._tokens.add(token_hash(token), actor.user_id, actor.device_id, until):
            raise UnknownToken
        return LoginToken(token, _LIFETIME_MS)

    async def owner_txn(self, txn: Transaction, token: str) -> str | None:
        """Whose token it is; it may have expired."""
        return await self._tokens.owner_txn(txn, token_hash(token))

    async def take_txn(self, txn: Transaction, token: str) -> bool:
        """Spend a token in the transaction that logs its owner in; False if it is unknown, spent or expired."""
        return await self._tokens.take_txn(txn, token_hash(token), self._clock())
