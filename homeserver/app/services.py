# SPDX-License-Identifier: Apache-2.0
"""The services, built in the order of their needs. One place where every collaborator can be read off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from homeserver.accounts import Accounts, build_accounts
from homeserver.app.core import Core
from homeserver.clientapi.token_authenticator import GuessBrake, TokenAuthenticator
from homeserver.config import Config
from homeserver.web.authentication import Authenticator
from homeserver.web.rate_limits import RateLimits


class _Nobody:
    async def arrive(self, user_id: str, display_name: str | None) -> None:
        return None

    async def depart(self, user_id: str, *, erase: bool) -> None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the endpoints call."""

    limits: RateLimits
    authenticator: Authenticator
    accounts: Accounts
    config: Config

    async def start(self) -> None:
        """Begin what runs by itself."""
        await self.accounts.start()

    async def stop(self) -> None:
        """End it; the database is still there."""
        await self.accounts.stop()

    async def first_account_token(self) -> str | None:
        """A one-time registration token if nobody has an account yet and one is needed to get one."""
        return await self.accounts.gate.ensure_first_account_token()


def build_services(reactor: Any, config: Config, core: Core, registration_secret: str) -> Services:
    """Build every service; nothing runs before `start`."""
    limits = RateLimits(reactor.seconds, enabled=config.rate_limits.enabled)
    accounts = build_accounts(
        reactor,
        config,
        core.database,
        registration_secret=registration_secret,
        arrivals=_Nobody(),
        departures=_Nobody(),
        guesses=GuessBrake(limits),
    )
    return Services(
        limits=limits,
        authenticator=TokenAuthenticator(accounts.authentication),
        accounts=accounts,
        config=config,
    )
