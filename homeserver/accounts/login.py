# SPDX-License-Identifier: Apache-2.0
"""Logging in, by password or by a login token.

Owns the decision that somebody may; the session they get is `sessions`'. Client-server API, "Login".
"""

from collections.abc import Awaitable, Callable, Mapping
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
            opened = await self._open(self._by_verified(user, device), device)
            if opened is not None:
                await self._passwords.renew_hash(user, password)
                return opened
        raise Forbidden("The password was changed at this moment")

    def _by_verified(
        self, verified: User, device: DeviceRequest
    ) -> Callable[[Transaction], Awaitable[LoggedIn | None]]:
        """Opens a session of a user as they are now; None if no longer with the password that was verified."""

        async def work(txn: Transaction) -> LoggedIn | None:
            user = await self._active_txn(txn, verified.user_id)
            if user.password_hash != verified.password_hash:
                return None
            return await self._open_txn(txn, user, device)

        return work

    async def by_token(self, token: str, device: DeviceRequest) -> LoggedIn:
        """Log in by a login token, which is spent.

        Raises Forbidden for a token that is unknown, spent or expired, UserDeactivated, UserLocked, InvalidParam.
        """
        device.check()

        async def work(txn: Transaction) -> LoggedIn | None:
            user_id = await self._login_tokens.owner_txn(txn, token)
            if user_id is None:
                return None
            # Before the token is spent: who logs everything out holds the user and then ends tokens.
            user = await self._active_txn(txn, user_id)
            if not await self._login_tokens.take_txn(txn, token):
                return None
            return await self._open_txn(txn, user, device)

        opened = await self._open(work, device)
        if opened is None:
            raise Forbidden("The login token is not valid")
        return opened

    async def _active_txn(self, txn: Transaction, user_id: str) -> User:
        """The user, who stays as they are until the transaction ends. Raises UserDeactivated."""
        user = await self._users.lock_txn(txn, user_id)
        if user is None or user.deactivated:
            raise UserDeactivated
        return user

    async def _open_txn(self, txn: Transaction, user: User, device: DeviceRequest) -> LoggedIn:
        if user.locked:
            raise UserLocked
        return await self._sessions.open_txn(txn, user.user_id, device)

    async def _open(
        self, work: Callable[[Transaction], Awaitable[LoggedIn | None]], device: DeviceRequest
    ) -> LoggedIn | None:
        """What `work` opens; once it stands, what was remembered of the device's earlier tokens is forgotten."""
        opened = await self._database.transaction("login", work)
        if opened is not None and device.device_id is not None:
            await self._sessions.replaced(opened.user_id)
        return opened
