# SPDX-License-Identifier: Apache-2.0
"""Logging in, by password or by a login token.

Owns the decision that somebody may; the session they get is `sessions`'. Client-server API, "Login".
"""

from collections.abc import Mapping
from typing import Any, Final

from homeserver.accounts.identity import PasswordCheck, user_named_in
from homeserver.accounts.login_tokens import LoginTokens
from homeserver.accounts.sessions import DeviceRequest, LoggedIn, Sessions
from homeserver.errors import Forbidden, UserDeactivated, UserLocked
from storage.database import Database, Transaction
from storage.users import User, UserStore

_ATTEMPTS: Final = 3


class Login:
    """Logs users in."""

    def __init__(
        self,
        *,
        server_name: str,
        database: Database,
        users: UserStore,
        passwords: PasswordCheck,
        login_tokens: LoginTokens,
        sessions: Sessions,
    ) -> None:
        self._server_name = server_name
        self._database = database
        self._users = users
        self._passwords = passwords
        self._login_tokens = login_tokens
        self._sessions = sessions

    async def by_password(self, body: Mapping[str, Any], password: str, device: DeviceRequest) -> LoggedIn:
        """Log in the user that `body` names.

        Raises Forbidden (wrong name or password, or a closed account: which, is not told), UserLocked,
        LimitExceeded, MissingParam and BadJson for malformed identifiers, InvalidParam for an impossible device.
        """
        device.check()
        named = user_named_in(body, self._server_name)
        for _ in range(_ATTEMPTS):
            user = await self._passwords.check(named, password)
            opened = await self._open(user.user_id, device, verified=user)
            if opened is not None:
                await self._passwords.renew_hash(user, password)
                return opened
        raise Forbidden("The password was changed at this moment")

    async def by_token(self, token: str, device: DeviceRequest) -> LoggedIn:
        """Log in by a login token, which is spent.

        Raises Forbidden for a token that is unknown, spent or expired, UserDeactivated, UserLocked, InvalidParam.
        """
        device.check()
        user_id = await self._login_tokens.take(token)
        opened = None if user_id is None else await self._open(user_id, device, verified=None)
        if opened is None:
            raise Forbidden("The login token is not valid")
        return opened

    async def _open(self, user_id: str, device: DeviceRequest, *, verified: User | None) -> LoggedIn | None:
        """Open a session of a user as they are now; None if no longer with the password that was verified."""

        async def work(txn: Transaction) -> LoggedIn | None:
            user = await self._users.lock_txn(txn, user_id)
            if user is None or user.deactivated:
                raise UserDeactivated
            if verified is not None and user.password_hash != verified.password_hash:
                return None
            if user.locked:
                raise UserLocked
            return await self._sessions.open_txn(txn, user_id, device)

        opened = await self._database.transaction("login", work)
        if opened is not None and device.device_id is not None:
            await self._sessions.replaced(user_id)
        return opened
