# SPDX-License-Identifier: Apache-2.0
"""Registration. Client-server API, `POST /register` and what belongs to it."""

from typing import Any

from homeserver.accounts.registration import Registration, RegistrationRequest
from homeserver.accounts.registration_gate import RegistrationGate
from homeserver.accounts.sessions import DeviceRequest
from homeserver.clientapi.login import logged_in
from homeserver.errors import Forbidden, ThreepidDenied
from homeserver.web.bodies import Struct
from homeserver.web.rate_limits import RateLimits
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route


class RegisterBody(Struct, frozen=True):
    """`POST /register`."""

    auth: dict[str, Any] | None = None
    type: str | None = None
    username: str | None = None
    password: str | None = None
    device_id: str | None = None
    initial_device_display_name: str | None = None
    inhibit_login: bool | None = None
    refresh_token: bool | None = None
    guest_access_token: str | None = None


class GuestBody(Struct, frozen=True):
    """`POST /register?kind=guest`, of which all else is ignored."""

    initial_device_display_name: str | None = None


class RegistrationEndpoints:
    """`/register`, `/register/available`, `/register/m.login.registration_token/validity`."""

    def __init__(self, registration: Registration, gate: RegistrationGate, limits: RateLimits) -> None:
        self._registration = registration
        self._gate = gate
        self._limits = limits

    def routes(self) -> tuple[Route, ...]:
        limit = "registration_checks"
        return (
            Route("POST", "/register", self.register, auth=Auth.NONE, limit=limit),
            Route("GET", "/register/available", self.available, auth=Auth.NONE, limit=limit),
            Route(
                "GET",
                "/register/m.login.registration_token/validity",
                self.token_validity,
                auth=Auth.NONE,
                limit=limit,
            ),
            Route("POST", "/register/email/requestToken", self.no_address, auth=Auth.NONE, limit=limit),
            Route("POST", "/register/msisdn/requestToken", self.no_address, auth=Auth.NONE, limit=limit),
        )

    async def register(self, request: MatrixRequest) -> Reply:
        """`POST /register`."""
        if request.query.enum("kind", ("user", "guest"), "user") == "guest":
            self._limits.check("registration", request.counted_as)
            guest = request.body(GuestBody, empty_ok=True)
            return logged_in(await self._registration.register_guest(guest.initial_device_display_name))
        body = request.body(RegisterBody, empty_ok=True)
        if body.type == "m.login.application_service":
            raise Forbidden("The access token is not that of an application service")
        if body.auth is not None:
            # A registration takes one request to learn the flows, which is not what is to be rare.
            self._limits.check("registration", request.counted_as)
        wanted = RegistrationRequest(
            username=body.username,
            password=body.password,
            device=DeviceRequest(
                device_id=body.device_id or None,
                display_name=body.initial_device_display_name,
                refresh=body.refresh_token is True,
            ),
            inhibit_login=body.inhibit_login is True,
            guest_access_token=body.guest_access_token,
        )
        return logged_in(await self._registration.register(wanted, body.auth))

    async def available(self, request: MatrixRequest) -> Reply:
        """`GET /register/available`."""
        await self._registration.check_username(request.query.required("username"))
        return {"available": True}

    async def token_validity(self, request: MatrixRequest) -> Reply:
        """`GET /register/m.login.registration_token/validity`."""
        return {"valid": await self._gate.is_token_valid(request.query.required("token"))}

    async def no_address(self, _request: MatrixRequest) -> Reply:
        """`POST /register/{email,msisdn}/requestToken`: accounts have no addresses here."""
        raise ThreepidDenied("Accounts of this server have no email addresses or phone numbers")
