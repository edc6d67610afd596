# SPDX-License-Identifier: Apache-2.0
"""Puts the services of accounts together. Owns the order of building, starting and stopping them, and nothing else."""

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from homeserver.accounts import stages
from homeserver.accounts.account_maker import AccountMaker
from homeserver.accounts.authentication import Authentication
from homeserver.accounts.credentials import Clock, now_ms
from homeserver.accounts.devices import OwnDevices
from homeserver.accounts.filters import Filters
from homeserver.accounts.guests import GuestUpgrade
from homeserver.accounts.housekeeping import Housekeeping
from homeserver.accounts.identity import PasswordCheck
from homeserver.accounts.lifecycle import ArrivingUser, DepartingUser
from homeserver.accounts.limits import GuessLimits
from homeserver.accounts.login import Login
from homeserver.accounts.login_tokens import LoginTokens
from homeserver.accounts.moderation import Moderation
from homeserver.accounts.openid import OpenId
from homeserver.accounts.own_account import OwnAccount
from homeserver.accounts.passwords import PasswordHasher
from homeserver.accounts.registration import Registration
from homeserver.accounts.registration_by_secret import SharedSecretRegistration
from homeserver.accounts.registration_gate import RegistrationGate
from homeserver.accounts.sessions import Sessions
from homeserver.accounts.sightings import Sightings
from homeserver.accounts.stages import Affirmation, PasswordStage, RegistrationTokenStage, Stage
from homeserver.accounts.token_cache import TokenCache
from homeserver.accounts.uia import Uia
from homeserver.accounts.usernames import Usernames
from homeserver.config.sections import Config
from storage.database import Database
from storage.devices import DeviceStore
from storage.expiry import ExpiryStore
from storage.filters import FilterStore
from storage.login_tokens import LoginTokenStore
from storage.openid_tokens import OpenIdTokenStore
from storage.registration_nonces import RegistrationNonceStore
from storage.registration_tokens import RegistrationTokenStore
from storage.tokens import TokenStore
from storage.uia_sessions import UiaSessionStore
from storage.users import UserStore


class Accounts(Struct, frozen=True, kw_only=True):
    """The services, each for whoever needs it; `start` and `stop` are the composition root's."""

    database: Database
    cache: TokenCache
    hasher: PasswordHasher
    authentication: Authentication
    sessions: Sessions
    uia: Uia
    gate: RegistrationGate
    usernames: Usernames
    maker: AccountMaker
    login: Login
    login_tokens: LoginTokens
    registration: Registration
    shared_secret: SharedSecretRegistration
    own_account: OwnAccount
    own_devices: OwnDevices
    moderation: Moderation
    openid: OpenId
    filters: Filters
    housekeeping: Housekeeping
    sightings: Sightings

    async def start(self) -> None:
        """Connect with the other processes and begin the recurring work."""
        await self.authentication.start(self.database)
        self.sightings.start()
        self.housekeeping.start()

    async def stop(self) -> None:
        """End the recurring work, write what is left, end the threads. The database must still be open."""
        await self.housekeeping.stop()
        await self.sightings.stop()
        self.hasher.close()


def build_accounts(
    reactor: Any,
    config: Config,
    database: Database,
    *,
    registration_secret: str,
    arrivals: ArrivingUser,
    departures: DepartingUser,
    guesses: GuessLimits,
    clock: Clock = now_ms,
    told: Callable[[], Awaitable[None]] | None = None,
    my_turn: Callable[[float], Awaitable[bool]] | None = None,
    remembered_tokens: int = 20_000,
) -> Accounts:
    """Build the services of accounts. Nothing runs before `start`, but a thread pool waits for passwords.

    `told`: awaited after tokens were revoked, so that all processes know; see `TokenCache`. `my_turn`: see
    `Housekeeping`; always so by default.
    """
    users, devices, tokens = UserStore(database), DeviceStore(database), TokenStore(database)
    uia_sessions, registration_tokens = UiaSessionStore(database), RegistrationTokenStore(database)
    cache = TokenCache(clock, size=remembered_tokens, told=told)
    hasher = PasswordHasher(
        reactor,
        time_cost=config.passwords.argon2_time_cost,
        memory=config.passwords.argon2_memory,
    )
    passwords = PasswordCheck(users, hasher, guesses)
    usernames = Usernames(config.server_name, users)
    sightings = Sightings(reactor, devices, clock)
    authentication = Authentication(tokens, cache, sightings, clock)
    sessions = Sessions(
        settings=config.sessions,
        database=database,
        devices=devices,
        tokens=tokens,
        cache=cache,
        clock=clock,
    )
    offered: dict[str, Stage] = {
        stages.DUMMY: Affirmation(stages.DUMMY, uia_sessions, clock),
        stages.TERMS: Affirmation(stages.TERMS, uia_sessions, clock),
        stages.PASSWORD: PasswordStage(config.server_name, passwords, uia_sessions, clock),
        stages.REGISTRATION_TOKEN: RegistrationTokenStage(
            registration_tokens, closed=not config.registration.enabled, clock=clock
        ),
    }
    uia = Uia(uia_sessions, offered, clock)
    gate = RegistrationGate(config.registration, registration_tokens, clock)
    maker = AccountMaker(database, users, sessions, arrivals, clock)
    login_tokens = LoginTokens(LoginTokenStore(database), uia, clock)
    own_account = OwnAccount(
        database=database,
        users=users,
        sessions=sessions,
        cache=cache,
        hasher=hasher,
        uia=uia,
        departures=departures,
        clock=clock,
    )
    return Accounts(
        database=database,
        cache=cache,
        hasher=hasher,
        authentication=authentication,
        sessions=sessions,
        uia=uia,
        gate=gate,
        usernames=usernames,
        maker=maker,
        login_tokens=login_tokens,
        login=Login(
            server_name=config.server_name,
            database=database,
            users=users,
            passwords=passwords,
            login_tokens=login_tokens,
            sessions=sessions,
        ),
        registration=Registration(
            database=database,
            gate=gate,
            usernames=usernames,
            hasher=hasher,
            uia=uia,
            maker=maker,
            guests=GuestUpgrade(users, sessions, authentication, clock),
        ),
        shared_secret=SharedSecretRegistration(
            secret=registration_secret,
            usernames=usernames,
            nonces=RegistrationNonceStore(database),
            maker=maker,
            hasher=hasher,
            clock=clock,
        ),
        own_account=own_account,
        own_devices=OwnDevices(devices, cache, uia),
        moderation=Moderation(config.server_name, users, devices, cache),
        openid=OpenId(OpenIdTokenStore(database), clock),
        filters=Filters(FilterStore(database), clock),
        housekeeping=Housekeeping(reactor, ExpiryStore(database), own_account, clock, my_turn or _always),
        sightings=sightings,
    )


async def _always(_seconds: float) -> bool:
    return True
