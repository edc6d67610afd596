# SPDX-License-Identifier: Apache-2.0
"""Creating an account once all questions are settled: the row, the first session, the welcome.

Owns that one step, shared by everybody who registers users.
"""

from homeserver.accounts.credentials import Clock
from homeserver.accounts.lifecycle import ArrivingUser
from homeserver.accounts.sessions import DeviceRequest, LoggedIn, Sessions
from homeserver.errors import UserInUse
from storage.database import Database, Transaction
from storage.users import NewUser, UserStore


class AccountMaker:
    """Creates accounts."""

    def __init__(
        self,
        database: Database,
        users: UserStore,
        sessions: Sessions,
        arrivals: ArrivingUser,
        clock: Clock,
    ) -> None:
        self._database = database
        self._users = users
        self._sessions = sessions
        self._arrivals = arrivals
        self._clock = clock

    async def make(
        self,
        user: NewUser,
        *,
        device: DeviceRequest | None,
        display_name: str | None = None,
    ) -> LoggedIn:
        """Create the account, logged in on `device` unless that is None. Raises UserInUse."""

        async def work(txn: Transaction) -> LoggedIn:
            return await self.make_txn(txn, user, device=device)

        made = await self._database.transaction("register", work)
        await self.welcome(made, display_name)
        return made

    async def make_txn(self, txn: Transaction, user: NewUser, *, device: DeviceRequest | None) -> LoggedIn:
        """As `make`, within a transaction; `welcome` is to follow it."""
        if not await self._users.create_txn(txn, user, self._clock()):
            raise UserInUse
        if device is None:
            return LoggedIn(user_id=user.user_id)
        return await self._sessions.open_txn(txn, user.user_id, device)

    async def welcome(self, made: LoggedIn, display_name: str | None = None) -> None:
        """Furnish an account whose transaction is committed."""
        await self._arrivals.arrive(made.user_id, display_name)
