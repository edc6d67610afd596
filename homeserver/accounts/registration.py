# SPDX-License-Identifier: Apache-2.0
"""Registering: people making accounts for themselves, and guests.

Owns the order of questions: is it open, is the name free, is the password good, is authentication complete; then one
transaction in which the account comes to be and what authorised it is spent. Client-server API, `POST /register`.
"""

from msgspec import Struct
from msgspec.structs import replace

from homeserver.accounts.account_maker import AccountMaker
from homeserver.accounts.guests import GuestUpgrade
from homeserver.accounts.passwords import PasswordHasher, check_password
from homeserver.accounts.registration_gate import RegistrationGate
from homeserver.accounts.sessions import DeviceRequest, LoggedIn
from homeserver.accounts.uia import Auth, Authorised, Uia
from homeserver.accounts.usernames import Usernames
from homeserver.errors import MissingParam
from homeserver.protocol.identifiers import localpart_of
from storage.database import Database, Transaction
from storage.users import NewUser


class RegistrationRequest(Struct, frozen=True, kw_only=True):
    """What a client asks to be registered as."""

    username: str | None
    password: str | None
    device: DeviceRequest
    inhibit_login: bool = False
    guest_access_token: str | None = None
    """Of the guest that shall become a full user under its own name."""

    def __repr__(self) -> str:
        return f"RegistrationRequest({self.username!r})"


class Registration:
    """Registers people, as far as the gate lets them in."""

    def __init__(
        self,
        *,
        database: Database,
        gate: RegistrationGate,
        usernames: Usernames,
        hasher: PasswordHasher,
        uia: Uia,
        maker: AccountMaker,
        guests: GuestUpgrade,
    ) -> None:
        self._database = database
        self._gate = gate
        self._usernames = usernames
        self._hasher = hasher
        self._uia = uia
        self._maker = maker
        self._guests = guests

    async def check_username(self, username: str) -> None:
        """Raise Forbidden while registration is closed, InvalidUsername or UserInUse for a name not to be had."""
        await self._gate.check_open()
        await self._usernames.free(username)

    async def register(self, request: RegistrationRequest, auth: Auth) -> LoggedIn:
        """Register a user.

        Raises UiaRequired while authentication is unfinished; before that, so that nobody goes through it in vain,
        Forbidden, InvalidUsername, UserInUse, WeakPassword and InvalidParam.
        """
        await self._gate.check_open()
        request.device.check()
        upgrade = request.guest_access_token is not None
        user_id = None
        if request.guest_access_token is not None:
            user_id = await self._guests.user_id_of(request.guest_access_token, request.username)
        elif request.username is not None:
            user_id = await self._usernames.free(request.username)
        if request.password is not None:
            check_password(request.password, None if user_id is None else localpart_of(user_id))
        authorised = await self._uia.check(self._gate.operation(), auth)
        if request.password is None:
            raise MissingParam("password is missing")
        user = NewUser(
            user_id=user_id or self._usernames.generated(),
            password_hash=await self._hasher.hash(request.password),
            terms_accepted=self._gate.terms_accepted(),
        )
        device = None if request.inhibit_login else request.device
        made = await self._make(user, device, authorised, upgrade=upgrade)
        if upgrade:
            await self._guests.end_guest_sessions(made)
        else:
            await self._maker.welcome(made)
        return made

    async def register_guest(self, display_name: str | None) -> LoggedIn:
        """Make a guest account and log it in on a device of that display name.

        Raises Forbidden unless guests are allowed.
        """
        self._gate.check_guests_allowed()
        device = DeviceRequest(display_name=display_name)
        device.check()
        guest = NewUser(user_id=self._usernames.generated(), password_hash=None, guest=True)
        return await self._maker.make(guest, device=device)

    async def _make(
        self, user: NewUser, device: DeviceRequest | None, authorised: Authorised, *, upgrade: bool
    ) -> LoggedIn:
        """Spend what was authorised and create the account: both or neither."""

        async def work(txn: Transaction) -> LoggedIn:
            await self._uia.spend_txn(txn, authorised)
            admin = await self._gate.complete_txn(txn, authorised)
            if upgrade:
                return await self._guests.upgrade_txn(txn, user, device=device)
            return await self._maker.make_txn(txn, replace(user, admin=admin), device=device)

        return await self._database.transaction("register", work)
