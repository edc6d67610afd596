# SPDX-License-Identifier: Apache-2.0
"""One's own account: who am I, the password, closing it, third-party identifiers.

Client-server API, "Current account information", "Password management", "Account deactivation", "Adding Account
Administrative Contact Information". This server binds no third-party identifiers: the list is empty, adding is refused,
and removing what is not there succeeds.
"""

from typing import Any

from homeserver.accounts.own_account import OwnAccount
from homeserver.errors import ThreepidDenied, ThreepidMediumNotSupported, ThreepidNotFound
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route


class PasswordBody(Struct, frozen=True):
    """`POST /account/password`."""

    new_password: str
    logout_devices: bool = True
    auth: dict[str, Any] | None = None


class DeactivateBody(Struct, frozen=True):
    """`POST /account/deactivate`."""

    auth: dict[str, Any] | None = None
    erase: bool | None = None


class AccountEndpoints:
    """`/account/…`."""

    def __init__(self, own_account: OwnAccount) -> None:
        self._own_account = own_account

    def routes(self) -> tuple[Route, ...]:
        no_account = {"M_THREEPID_NOT_FOUND": 400}
        return (
            Route("GET", "/account/whoami", self.whoami, auth=Auth.GUEST_OK),
            Route("POST", "/account/password", self.password, limit="password"),
            Route("POST", "/account/deactivate", self.deactivate, limit="password"),
            Route("GET", "/account/3pid", self.addresses),
            Route("POST", "/account/3pid", self.refuse_address),
            Route("POST", "/account/3pid/add", self.refuse_address),
            Route("POST", "/account/3pid/bind", self.refuse_address),
            Route("POST", "/account/3pid/delete", self.remove_address),
            Route("POST", "/account/3pid/unbind", self.remove_address),
            *(
                Route("POST", f"/account/3pid/{medium}/requestToken", self.refuse_medium, auth=Auth.NONE)
                for medium in ("email", "msisdn")
            ),
            *(
                Route(
                    "POST",
                    f"/account/password/{medium}/requestToken",
                    self.unknown_address,
                    auth=Auth.NONE,
                    statuses=no_account,
                )
                for medium in ("email", "msisdn")
            ),
        )

    async def whoami(self, request: MatrixRequest) -> Reply:
        """`GET /account/whoami`."""
        requester = request.requester
        reply: dict[str, object] = {"user_id": requester.user_id, "is_guest": requester.is_guest}
        if requester.device_id is not None:
            reply["device_id"] = requester.device_id
        return reply

    async def password(self, request: MatrixRequest) -> Reply:
        """`POST /account/password`."""
        body = request.body(PasswordBody)
        await self._own_account.change_password(
            request.requester, body.new_password, logout_devices=body.logout_devices, auth=body.auth
        )
        return {}

    async def deactivate(self, request: MatrixRequest) -> Reply:
        """`POST /account/deactivate`. There are no third-party identifiers to unbind, which is success."""
        body = request.body(DeactivateBody, empty_ok=True)
        await self._own_account.deactivate(request.requester, erase=body.erase is True, auth=body.auth)
        return {"id_server_unbind_result": "success"}

    async def addresses(self, _request: MatrixRequest) -> Reply:
        """`GET /account/3pid`."""
        return {"threepids": []}

    async def refuse_address(self, _request: MatrixRequest) -> Reply:
        """`POST /account/3pid`, `/account/3pid/{add,bind}`."""
        raise ThreepidDenied("Accounts of this server have no email addresses or phone numbers")

    async def remove_address(self, _request: MatrixRequest) -> Reply:
        """`POST /account/3pid/{delete,unbind}`."""
        return {"id_server_unbind_result": "success"}

    async def refuse_medium(self, _request: MatrixRequest) -> Reply:
        """`POST /account/3pid/{email,msisdn}/requestToken`."""
        raise ThreepidMediumNotSupported("Accounts of this server have no email addresses or phone numbers")

    async def unknown_address(self, _request: MatrixRequest) -> Reply:
        """`POST /account/password/{email,msisdn}/requestToken`."""
        raise ThreepidNotFound("No account has that address")
