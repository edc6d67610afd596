# SPDX-License-Identifier: Apache-2.0
"""What users do with their own account: change the password, close it.

Owns both, each behind user-interactive authentication, and the completion of departures. Client-server API, "Password
management" and "Account deactivation".

Requests that were let in before an account was closed may still write when it has left everything. None of them asks
again on whose behalf it writes, which would cost every request something: the departure is instead gone through once
more when none of them can be under way any more. What may take longer, joining by way of other servers, looks itself
when it ends (`homeserver/rooms/membership/join.py`).
"""

from typing import Final

from twisted.logger import Logger

from homeserver.accounts.actor import Actor
from homeserver.accounts.credentials import Clock
from homeserver.accounts.lifecycle import DepartingUser
from homeserver.accounts.passwords import PasswordHasher, check_password
from homeserver.accounts.sessions import Sessions
from homeserver.accounts.stages import PASSWORD
from homeserver.accounts.token_cache import TokenCache
from homeserver.accounts.uia import Auth, Operation, Uia
from homeserver.errors import UserDeactivated
from homeserver.protocol.identifiers import localpart_of
from storage.database import Database, Transaction
from storage.users import Departure, UserStore

_DEPARTURES_AT_ONCE: Final = 100
RETRY_MS: Final = 5 * 60_000
"""When a departure that failed, or whose process died, is taken up again."""
SETTLED_MS: Final = 15 * 60_000
"""How long after an account was closed a request from before may still write: a departure after that is the last."""


class OwnAccount:
    """Changes passwords and closes accounts."""

    _log = Logger()

    def __init__(
        self,
        *,
        database: Database,
        users: UserStore,
        sessions: Sessions,
        cache: TokenCache,
        hasher: PasswordHasher,
        uia: Uia,
        departures: DepartingUser,
        clock: Clock,
    ) -> None:
        self._database = database
        self._users = users
        self._sessions = sessions
        self._cache = cache
        self._hasher = hasher
        self._uia = uia
        self._departures = departures
        self._clock = clock

    async def change_password(
        self, actor: Actor, new_password: str, *, logout_devices: bool, auth: Auth
    ) -> None:
        """Set a new password; `logout_devices` ends every session but the requester's, in the same transaction.

        Raises WeakPassword before, and UiaRequired while authentication is unfinished.
        """
        check_password(new_password, localpart_of(actor.user_id))
        await self._uia.require(_operation("POST account/password", actor), auth)
        hashed = await self._hasher.hash(new_password)

        async def work(txn: Transaction) -> bool:
            if not await self._users.set_password_txn(txn, actor.user_id, hashed):
                return False
            if logout_devices:
                await self._sessions.close_all_txn(txn, actor.user_id, but=actor.device_id)
            return True

        if not await self._database.transaction("change_password", work):
            raise UserDeactivated
        if logout_devices:
            await self._cache.revoke(actor.user_id)

    async def deactivate(self, actor: Actor, *, erase: bool, auth: Auth) -> None:
        """Close the requester's account for good. Raises UiaRequired while authentication is unfinished.

        Nobody can log in any more when this returns. Leaving the rooms may go on after a failure; see
        `finish_departures`.
        """
        await self._uia.require(_operation("POST account/deactivate", actor), auth)
        now = self._clock()
        departure = await self._users.deactivate(actor.user_id, erase=erase, now=now, until=now + RETRY_MS)
        await self._cache.revoke(actor.user_id)
        if departure is not None:
            await self._depart(departure)

    async def finish_departures(self) -> int:
        """Take up departures that are due, be it once more; returns how many there were."""
        now = self._clock()
        departing = await self._users.claim_departing(now, now + RETRY_MS, _DEPARTURES_AT_ONCE)
        for departure in departing:
            await self._users.forget(departure.user_id)
            await self._depart(departure)
        return len(departing)

    async def _depart(self, departure: Departure) -> None:
        began = self._clock()
        try:
            await self._departures.depart(departure.user_id, erase=departure.erase)
        except Exception:
            # The account is closed, which is what was asked for: the rest is tried again by housekeeping.
            self._log.failure("{user_id} could not leave everything yet", user_id=departure.user_id)
            return
        settled = (departure.closed_ts or 0) + SETTLED_MS
        await self._users.departed(departure, again_ts=None if began >= settled else settled)


def _operation(name: str, actor: Actor) -> Operation:
    return Operation(name=name, user_id=actor.user_id, flows=[(PASSWORD,)], params={})
