# SPDX-License-Identifier: Apache-2.0
"""Logging in and out, refreshing tokens. Client-server API, "Login", "Refreshing access tokens", `/logout`."""

from collections.abc import Mapping
from typing import Any

import msgspec

from homeserver.accounts.login import Login
from homeserver.accounts.login_tokens import LoginTokens
from homeserver.accounts.sessions import DeviceRequest, LoggedIn, Sessions
from homeserver.errors import Forbidden, MissingParam, Unknown
from homeserver.protocol.identifiers import domain_of
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route


class LoginBody(Struct, frozen=True):
    """`POST /login`. The identifying keys, old ones included, are read by `accounts.identity`."""

    type: str | None = None
    identifier: dict[str, Any] | None = None
    user: str | None = None
    medium: str | None = None
    address: str | None = None
    password: str | None = None
    token: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    refresh_token: bool | None = None

    def device(self) -> DeviceRequest:
        return DeviceRequest(
            device_id=self.device_id or None,
            display_name=self.initial_device_display_name,
            refresh=self.refresh_token is True,
        )


class RefreshBody(Struct, frozen=True):
    """`POST /refresh`."""

    refresh_token: str


class AuthBody(Struct, frozen=True):
    """A body of nothing but `auth`."""

    auth: dict[str, Any] | None = None


class LoginEndpoints:
    """`/login`, `/login/get_token`, `/refresh`, `/logout`, `/logout/all`."""

    def __init__(
        self,
        login: Login,
        login_tokens: LoginTokens,
        sessions: Sessions,
        well_known: Mapping[str, object] | None,
    ) -> None:
        """`well_known`: what clients are told to reconfigure themselves with, if anything."""
        self._login = login
        self._login_tokens = login_tokens
        self._sessions = sessions
        self._well_known = well_known

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("GET", "/login", self.flows, auth=Auth.NONE, limit="discovery"),
            Route("POST", "/login", self.log_in, auth=Auth.NONE, limit="login_address"),
            Route("POST", "/login/get_token", self.get_token, limit="password"),
            Route("POST", "/refresh", self.refresh, auth=Auth.NONE, limit="refresh"),
            Route("POST", "/logout", self.log_out, locked_ok=True),
            Route("POST", "/logout/all", self.log_out_all, locked_ok=True),
        )

    async def flows(self, _request: MatrixRequest) -> Reply:
        """`GET /login`."""
        return {"flows": [{"type": "m.login.password"}, {"type": "m.login.token", "get_login_token": True}]}

    async def log_in(self, request: MatrixRequest) -> Reply:
        """`POST /login`."""
        body = request.body(LoginBody)
        match body.type:
            case None:
                raise MissingParam("type is missing")
            case "m.login.password":
                if body.password is None:
                    raise MissingParam("password is missing")
                identity = msgspec.structs.asdict(body)
                named = {key: value for key, value in identity.items() if value is not None}
                made = await self._login.by_password(named, body.password, body.device())
            case "m.login.token":
                if body.token is None:
                    raise MissingParam("token is missing")
                made = await self._login.by_token(body.token, body.device())
            case "m.login.application_service":
                raise Forbidden("The access token is not that of an application service")
            case _:
                raise Unknown("Unknown login type")
        reply = logged_in(made)
        if self._well_known is not None:
            reply["well_known"] = self._well_known
        return reply

    async def get_token(self, request: MatrixRequest) -> Reply:
        """`POST /login/get_token`."""
        body = request.body(AuthBody, empty_ok=True)
        made = await self._login_tokens.make(request.requester, body.auth)
        return {"login_token": made.token, "expires_in_ms": made.expires_in_ms}

    async def refresh(self, request: MatrixRequest) -> Reply:
        """`POST /refresh`."""
        made = await self._sessions.refresh(request.body(RefreshBody).refresh_token)
        reply = logged_in(made)
        return {key: reply[key] for key in ("access_token", "refresh_token", "expires_in_ms")}

    async def log_out(self, request: MatrixRequest) -> Reply:
        """`POST /logout`."""
        await self._sessions.close(request.requester)
        return {}

    async def log_out_all(self, request: MatrixRequest) -> Reply:
        """`POST /logout/all`."""
        await self._sessions.close_all(request.requester.user_id)
        return {}


def logged_in(made: LoggedIn) -> dict[str, object]:
    """The reply to whoever just logged in or registered, without what does not apply."""
    reply: dict[str, object] = {"user_id": made.user_id, "home_server": domain_of(made.user_id)}
    if made.access_token is not None:
        reply["access_token"] = made.access_token
        reply["device_id"] = made.device_id
    if made.refresh_token is not None:
        reply["refresh_token"] = made.refresh_token
    if made.expires_in_ms is not None:
        reply["expires_in_ms"] = made.expires_in_ms
    return reply
