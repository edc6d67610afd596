# SPDX-License-Identifier: Apache-2.0
"""The endpoints of accounts, served over real HTTP on loopback by the test's own reactor."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from homeserver.accounts import Accounts, build_accounts
from homeserver.clientapi.accounts import account_routes, discovery_routes
from homeserver.clientapi.token_authenticator import GuessBrake, TokenAuthenticator
from homeserver.clientapi.versions import UnstableFeatures
from homeserver.config.sections import Config, Listener, Passwords, Registration
from homeserver.config.units import Bytes
from homeserver.observability.access_log import AccessLog
from homeserver.observability.log_output import LogOutput
from homeserver.observability.metrics import HttpMetrics
from homeserver.web.listeners import WebServer
from homeserver.web.rate_limits import RateLimits
from storage.database import Database
from tests.accounts.serving import PASSWORD, SECRET, SERVER, Comings, StandingClock
from tests.reactor import reactor
from tests.web.loopback import Answer, Connection

V3 = "/_matrix/client/v3"
CONFIG = Config(
    server_name=SERVER,
    public_baseurl="https://matrix.example.org/",
    registration=Registration(enabled=True, requires_token=False, allow_guests=True),
    passwords=Passwords(argon2_time_cost=1, argon2_memory=Bytes(2**20)),
)


class AccountSite:
    """Accounts behind HTTP. Rate limits have a clock of their own that stands still."""

    def __init__(self, database: Database, config: Config, *, limited: bool) -> None:
        self.database = database
        self.clock, self.comings = StandingClock(), Comings()
        self.seconds = 0.0
        self.access_log = io.StringIO()
        limits = RateLimits(lambda: self.seconds, enabled=limited)
        self.accounts: Accounts = build_accounts(
            reactor,
            config,
            database,
            registration_secret=SECRET,
            arrivals=self.comings,
            departures=self.comings,
            guesses=GuessBrake(limits),
            clock=self.clock,
        )
        self._server = WebServer(
            reactor,
            routes=(
                *account_routes(self.accounts, config, limits),
                *discovery_routes(config, UnstableFeatures(["org.example.works"])),
            ),
            authenticator=TokenAuthenticator(self.accounts.authentication),
            limits=limits,
            metrics=HttpMetrics(),
            access_log=AccessLog(LogOutput(self.access_log)),
            max_body=1_000_000,
        )
        self._port: int = self._server.listen(Listener(port=0)).port.getHost().port
        self._connection: Connection | None = None

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. `path` not under `/_` or `/.` is under v3; `body` bytes go as they are, else as JSON."""
        if not path.startswith(("/_", "/.")):
            path = V3 + path
        target = quote(path, safe="/@:%") + (f"?{urlencode(query)}" if query else "")
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if self._connection is None or self._connection.closed:
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)
            self._connection = await connectProtocol(endpoint, Connection())  # type: ignore[no-untyped-call]
        if raw is None and method in {"POST", "PUT"}:
            raw = b""
        return await self._connection.request(method, target, body=raw, token=token)

    async def register(self, username: str, **more: Any) -> dict[str, Any]:
        """Register through the dummy stage; the reply."""
        body = {"username": username, "password": PASSWORD, "auth": {"type": "m.login.dummy"}, **more}
        answer = await self.call("POST", "/register", body)
        assert answer.status == 200, answer.raw
        made: dict[str, Any] = answer.json
        return made

    async def admin(self, username: str) -> str:
        """The token of a new administrator."""
        made = await self.register(username)
        await self.database.execute(
            "admin", "UPDATE users SET admin = true WHERE user_id = %s", (made["user_id"],)
        )
        self.accounts.cache.forget(made["user_id"])
        token: str = made["access_token"]
        return token

    async def stop(self) -> None:
        """Drop the connection, then stop."""
        if self._connection is not None and not self._connection.closed:
            self._connection.drop()
        await self._server.stop(1.0)
        self.accounts.hasher.close()


@asynccontextmanager
async def account_site(
    database: Database, config: Config = CONFIG, *, limited: bool = False
) -> AsyncIterator[AccountSite]:
    """Serve for the length of the block."""
    site = AccountSite(database, config, limited=limited)
    try:
        yield site
    finally:
        await site.stop()


def password_auth(user: str, session: str | None = None) -> dict[str, Any]:
    """An `auth` object of the password stage."""
    identifier = {"type": "m.id.user", "user": user}
    auth: dict[str, Any] = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
    return auth if session is None else {**auth, "session": session}
