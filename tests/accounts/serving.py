# SPDX-License-Identifier: Apache-2.0
"""The services of accounts on a test's own database, with a clock that stands until told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from homeserver.accounts import Accounts, build_accounts
from homeserver.accounts.registration import RegistrationRequest
from homeserver.accounts.sessions import DeviceRequest, LoggedIn
from homeserver.config.sections import Config, Passwords, Registration
from homeserver.config.units import Bytes
from homeserver.errors import LimitExceeded, UiaRequired
from storage.database import Database
from storage.registration_tokens import NewRegistrationToken, RegistrationTokenStore
from tests import reactor as runner

SERVER = "example.org"
PASSWORD = "correct horse battery staple"
SECRET = "the secret of these tests"

CONFIG = Config(
    server_name=SERVER,
    registration=Registration(enabled=True, requires_token=False),
    passwords=Passwords(argon2_time_cost=1, argon2_memory=Bytes(2**20)),
)


class StandingClock:
    """Milliseconds since 1970, moved by the test."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


@dataclass
class Comings:
    """Notes who arrives and departs; `failing` departures raise, and `meanwhile` is what happens during one."""

    arrived: list[tuple[str, str | None]] = field(default_factory=list)
    departed: list[tuple[str, bool]] = field(default_factory=list)
    failing: bool = False
    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def arrive(self, user_id: str, display_name: str | None) -> None:
        self.arrived.append((user_id, display_name))

    async def depart(self, user_id: str, *, erase: bool) -> None:
        if self.failing:
            raise ConnectionError("the rooms are away")
        if self.meanwhile is not None:
            await self.meanwhile()
        self.departed.append((user_id, erase))


@dataclass
class Guesses:
    """Refuses everybody after `most` failures."""

    most: int = 100
    failures: dict[str, int] = field(default_factory=dict)

    def check(self, user_id: str) -> None:
        if self.failures.get(user_id, 0) >= self.most:
            raise LimitExceeded(1000)

    def failed(self, user_id: str) -> None:
        self.failures[user_id] = self.failures.get(user_id, 0) + 1


@dataclass
class Setting:
    """One process's accounts and what surrounds them."""

    accounts: Accounts
    clock: StandingClock
    comings: Comings
    guesses: Guesses
    database: Database

    async def register(self, username: str, **wishes: Any) -> LoggedIn:
        """An account with `PASSWORD`, through the dummy stage."""
        device = DeviceRequest(**wishes)
        request = RegistrationRequest(username=username, password=PASSWORD, device=device)
        return await self.accounts.registration.register(request, {"type": "m.login.dummy"})

    async def log_in(self, user: str, password: str = PASSWORD, **wishes: Any) -> LoggedIn:
        """By password, as `m.id.user`."""
        identity = {"identifier": {"type": "m.id.user", "user": user}}
        return await self.accounts.login.by_password(identity, password, DeviceRequest(**wishes))

    async def allow(self, token: str, uses: int | None = None) -> None:
        """Make a registration token."""
        new = NewRegistrationToken(token=token, uses_allowed=uses)
        assert await RegistrationTokenStore(self.database).add(new, self.clock.now)

    async def everything(self) -> str:
        """Every row of every table, as text: for what must not be there."""
        tables = await self.database.fetch(
            "tables", "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        )
        rows = [
            str(await self.database.fetch("rows", f'SELECT t::text FROM "{name}" t')) for (name,) in tables
        ]
        return "\n".join(rows)


@contextmanager
def accounts_on(
    database: Database, *, clock: StandingClock | None = None, registration: Registration | None = None
) -> Iterator[Setting]:
    """Services like those of one process, not started."""
    config = CONFIG if registration is None else replace(CONFIG, registration=registration)
    clock, comings, guesses = clock or StandingClock(), Comings(), Guesses()
    accounts = build_accounts(
        runner.reactor,
        config,
        database,
        registration_secret=SECRET,
        arrivals=comings,
        departures=comings,
        guesses=guesses,
        clock=clock,
    )
    try:
        yield Setting(accounts, clock, comings, guesses, database)
    finally:
        accounts.hasher.close()


@dataclass(frozen=True)
class ActorOf:
    """Whoever asks, for services."""

    user_id: str
    device_id: str | None
    is_admin: bool = False


def actor_of(made: LoggedIn, *, is_admin: bool = False) -> ActorOf:
    """The actor of a log-in."""
    return ActorOf(made.user_id, made.device_id, is_admin)


def password_auth(user: str, session: str | None = None, password: str = PASSWORD) -> dict[str, Any]:
    """An `auth` object of the password stage."""
    auth = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user},
        "password": password,
    }
    return auth if session is None else {**auth, "session": session}


def session_of(caught: pytest.ExceptionInfo[UiaRequired]) -> str:
    """The session a client is asked to go on with."""
    session = caught.value.fields["session"]
    assert isinstance(session, str)
    return session
