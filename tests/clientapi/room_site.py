# SPDX-License-Identifier: Apache-2.0
"""The endpoints of rooms on a port of loopback, for users whose tokens are their names."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from homeserver.clientapi.rooms import room_routes
from homeserver.config.sections import Listener
from homeserver.observability.access_log import AccessLog
from homeserver.observability.log_output import LogOutput
from homeserver.observability.metrics import HttpMetrics
from homeserver.reports import Reports
from homeserver.rooms.delayed.events import Limits
from homeserver.rooms.delayed.services import build_delayed_services
from homeserver.web.authentication import Requester
from homeserver.web.listeners import WebServer
from homeserver.web.rate_limits import RateLimits
from storage.database import Database
from storage.delayed_events import DelayedEventStore
from storage.reports import ReportStore
from storage.users import UserStore
from tests.reactor import reactor
from tests.rooms.services_fixture import House
from tests.web.loopback import Answer, Connection, Tokens

V3 = "/_matrix/client/v3"


def requester(name: str, **more: Any) -> Requester:
    return Requester(user_id=f"@{name}:localhost", device_id="DEVICE", **more)


TOKENS = Tokens(
    {
        "alice": requester("alice"),
        "bob": requester("bob"),
        "carol": requester("carol"),
        "root": requester("root", is_admin=True),
        "guest": requester("guest", is_guest=True),
        "suspended": requester("bob", is_suspended=True),
    }
)


class _Everybody:
    async def existing(self, user_ids: Sequence[str]) -> Collection[str]:
        return user_ids


class RoomSite:
    """A house of rooms behind HTTP."""

    def __init__(self, house: House, database: Database, *, limited: bool = False) -> None:
        self.house = house
        self.reports = ReportStore(database)
        reports = Reports(
            store=self.reports, gate=house.engine.gate, users=_Everybody(), now=lambda: 1_700_000_000_000
        )
        limits = RateLimits(reactor.seconds, enabled=limited)
        delayed = build_delayed_services(
            reactor=reactor,
            store=DelayedEventStore(database),
            gate=house.engine.gate,
            sending=house.rooms.sending,
            setting_state=house.rooms.setting_state,
            users=UserStore(database),
            limits=Limits(max_delay_ms=86_400_000, max_scheduled=100),
        )
        self.log = io.StringIO()
        self._server = WebServer(
            reactor,
            routes=room_routes(
                house.rooms, delayed.events, reports, "localhost", active=lambda _user_id: None, limits=limits
            ),
            authenticator=TOKENS,
            limits=limits,
            metrics=HttpMetrics(),
            access_log=AccessLog(LogOutput(self.log)),
            max_body=1_000_000,
        )
        self._port: int = self._server.listen(Listener(port=0)).port.getHost().port
        self._connection: Connection | None = None

    async def call(
        self,
        token: str | None,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; a path that does not begin with `/_` is under v3. Segments are given unquoted, `/` apart."""
        target = quote(path if path.startswith("/_") else V3 + path, safe="/@:%!#$".replace("#", ""))
        if query:
            target += "?" + urlencode(query)
        raw = b"" if body is None and method != "GET" else None
        if body is not None:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        if self._connection is None or self._connection.closed:
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self._port)
            self._connection = await connectProtocol(endpoint, Connection())  # type: ignore[no-untyped-call]
        return await self._connection.request(method, target, body=raw, token=token)

    async def ok(self, token: str | None, method: str, path: str, body: object = None, **query: str) -> Any:
        """The body of a request that must succeed."""
        answer = await self.call(token, method, path, body, query)
        assert answer.status == 200, (method, path, answer.status, answer.raw)
        return answer.json

    async def stop(self) -> None:
        """Drop the connection, then stop."""
        if self._connection is not None and not self._connection.closed:
            self._connection.drop()
        await self._server.stop(1.0)
