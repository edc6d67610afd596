# SPDX-License-Identifier: Apache-2.0
"""Guests that become full users under their own name. Client-server API, "Guest Access".

Owns the proof that somebody is the guest, and the change.
"""

from homeserver.accounts.authentication import Authentication
from homeserver.accounts.credentials import Clock
from homeserver.accounts.sessions import DeviceRequest, LoggedIn, Sessions
from homeserver.errors import Forbidden, InvalidUsername, UserInUse
from homeserver.protocol.identifiers import localpart_of
from storage.database import Transaction
from storage.users import NewUser, UserStore


class GuestUpgrade:
    """Makes users of guests."""

    def __init__(
        self, users: UserStore, sessions: Sessions, authentication: Authentication, clock: Clock
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._authentication = authentication
        self._clock = clock

    async def user_id_of(self, guest_access_token: str, username: str | None) -> str:
        """The guest who holds the token. Raises UnknownToken, Forbidden, and InvalidUsername for another name."""
        owner = await self._authentication.owner_of(guest_access_token)
        if not owner.guest or owner.locked:
            raise Forbidden("guest_access_token is not the token of a guest")
        if username is not None and username.lower() != localpart_of(owner.user_id):
            raise InvalidUsername("A guest becomes a user under its own name")
        return owner.user_id

    async def upgrade_txn(self, txn: Transaction, user: NewUser, *, device: DeviceRequest | None) -> LoggedIn:
        """Make a user of the guest, logged in on `device` unless that is None. Raises UserInUse."""
        if not await self._users.upgrade_guest_txn(txn, user, self._clock()):
            raise UserInUse
        if device is None:
            return LoggedIn(user_id=user.user_id)
        return await self._sessions.open_txn(txn, user.user_id, device)

    async def end_guest_sessions(self, made: LoggedIn) -> None:
        """Log out what the user was logged in on as a guest."""
        await self._sessions.close_all(made.user_id, but=made.device_id)
