# SPDX-License-Identifier: Apache-2.0
"""Log-in sessions: opening a device with its tokens, refreshing them, ending them.

Owns how tokens are made and how long they live. Who may log in was decided by the caller (`login`, `registration`,
`registration_by_secret`); finding the owner of a token is `authentication`'s.
"""

from msgspec import Struct

from homeserver.accounts.actor import Actor
from homeserver.accounts.credentials import (
    Clock,
    new_access_token,
    new_device_id,
    new_refresh_token,
    token_hash,
)
from homeserver.accounts.token_cache import TokenCache
from homeserver.config.sections import Sessions as SessionSettings
from homeserver.errors import InvalidParam, UnknownToken, UserLocked
from storage.database import Database, Transaction
from storage.devices import DeviceStore
from storage.tokens import IssuedTokens, TokenStore

MAX_DEVICE_ID = 255
MAX_DISPLAY_NAME = 256


class DeviceRequest(Struct, frozen=True, kw_only=True):
    """What a client says of the device it logs in with."""

    device_id: str | None = None
    """None: make one up."""
    display_name: str | None = None
    """Used only if the device is new."""
    refresh: bool = False
    """The client can refresh, so its access token may expire."""

    def check(self) -> None:
        """Raise InvalidParam for a device id or display name that no device may have."""
        device_id = "-" if self.device_id is None else self.device_id
        if not 0 < len(device_id) <= MAX_DEVICE_ID:
            raise InvalidParam(f"A device id has between 1 and {MAX_DEVICE_ID} characters")
        if self.display_name is not None:
            check_display_name(self.display_name)


class LoggedIn(Struct, frozen=True, kw_only=True):
    """The outcome of a log-in, registration or refresh, as its client is told. Never logged: see `__repr__`."""

    user_id: str
    device_id: str | None = None
    access_token: str | None = None
    refresh_token: str | None = None
    expires_in_ms: int | None = None
    """None: the access token does not expire."""

    def __repr__(self) -> str:
        return f"LoggedIn({self.user_id!r}, {self.device_id!r})"


class Sessions:
    """Opens, refreshes and ends sessions."""

    def __init__(
        self,
        *,
        settings: SessionSettings,
        database: Database,
        devices: DeviceStore,
        tokens: TokenStore,
        cache: TokenCache,
        clock: Clock,
    ) -> None:
        self._lifetime_ms = round(settings.access_token_lifetime * 1000)
        self._database = database
        self._devices = devices
        self._tokens = tokens
        self._cache = cache
        self._clock = clock

    async def open_txn(self, txn: Transaction, user_id: str, request: DeviceRequest) -> LoggedIn:
        """Log a user in whose row the transaction created or holds locked.

        A device the user has already keeps its name and loses the tokens it had, and `replaced` is due afterwards.
        """
        now = self._clock()
        device_id = request.device_id or new_device_id()
        made, issued = self._new_tokens(user_id, device_id, now, refresh=request.refresh)
        if await self._devices.put_txn(txn, user_id, device_id, request.display_name, now):
            await self._tokens.issue_txn(txn, user_id, device_id, issued, now)
        else:
            await self._tokens.replace_txn(txn, user_id, device_id, issued, now)
        return made

    async def refresh(self, refresh_token: str) -> LoggedIn:
        """New tokens for a refresh token, which works until one of the new ones is used.

        Raises UnknownToken (without soft log-out: nothing is known of the device) and UserLocked.
        """
        now = self._clock()
        made, issued = self._new_tokens("", "", now, refresh=True)
        owner = await self._tokens.refresh(token_hash(refresh_token), issued, now)
        if owner is None or owner.deactivated:
            raise UnknownToken("The refresh token is unknown or was used before")
        if owner.locked:
            raise UserLocked
        return LoggedIn(
            user_id=owner.user_id,
            device_id=owner.device_id,
            access_token=made.access_token,
            refresh_token=made.refresh_token,
            expires_in_ms=made.expires_in_ms,
        )

    async def replaced(self, user_id: str) -> None:
        """Return once no process takes the tokens any more that a committed `open_txn` replaced."""
        await self._cache.revoke(user_id)

    async def close(self, actor: Actor) -> None:
        """Log the requester's device out: it is deleted with everything that is its own."""
        if actor.device_id is not None:
            await self._devices.delete(actor.user_id, [actor.device_id])
            await self._cache.revoke(actor.user_id)

    async def close_all(self, user_id: str, *, but: str | None = None) -> None:
        """Log out every device of a user except `but`; nobody is let in any more by login tokens of any of them."""
        await self._devices.delete_others(user_id, but)
        await self._cache.revoke(user_id)

    async def close_all_txn(self, txn: Transaction, user_id: str, *, but: str | None = None) -> None:
        """As `close_all`, within a transaction, after which the user's tokens are to be forgotten."""
        await self._devices.delete_others_txn(txn, user_id, but)

    def _new_tokens(
        self, user_id: str, device_id: str, now: int, *, refresh: bool
    ) -> tuple[LoggedIn, IssuedTokens]:
        access_token = new_access_token()
        refresh_token = new_refresh_token() if refresh else None
        made = LoggedIn(
            user_id=user_id,
            device_id=device_id,
            access_token=access_token,
            refresh_token=refresh_token,
            expires_in_ms=self._lifetime_ms if refresh else None,
        )
        issued = IssuedTokens(
            token_hash(access_token),
            None if refresh_token is None else token_hash(refresh_token),
            now + self._lifetime_ms if refresh else None,
        )
        return made, issued


def check_display_name(display_name: str) -> None:
    """Raise InvalidParam for a device name that is too long."""
    if len(display_name) > MAX_DISPLAY_NAME:
        raise InvalidParam(f"A device's display name has at most {MAX_DISPLAY_NAME} characters")
