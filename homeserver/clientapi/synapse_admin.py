# SPDX-License-Identifier: Apache-2.0
"""The part of `/_synapse/admin` that is about accounts, in the form the ecosystem's tools speak."""

from homeserver.accounts.moderation import Moderation
from homeserver.accounts.registration_by_secret import SharedSecretRegistration, SharedSecretRequest
from homeserver.accounts.sessions import DeviceRequest
from homeserver.accounts.usernames import Usernames
from homeserver.clientapi.login import logged_in
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Handler, Route

_UNDER = ("/_synapse/admin/v1",)


class SharedSecretBody(Struct, frozen=True):
    """`POST /register`."""

    nonce: str
    username: str
    password: str
    mac: str
    admin: bool = False
    user_type: str | None = None
    displayname: str | None = None
    inhibit_login: bool = False


class AdminBody(Struct, frozen=True):
    """`PUT /users/{userId}/admin`."""

    admin: bool


class SynapseAdminEndpoints:
    """`/_synapse/admin/v1/{register,users/{userId}/admin,username_available}`."""

    def __init__(
        self, shared_secret: SharedSecretRegistration, moderation: Moderation, usernames: Usernames
    ) -> None:
        self._shared_secret = shared_secret
        self._moderation = moderation
        self._usernames = usernames

    def routes(self) -> tuple[Route, ...]:
        def route(method: str, template: str, handler: Handler, auth: Auth = Auth.NONE) -> Route:
            return Route(
                method, template, handler, under=_UNDER, auth=auth, limit="discovery", resource="admin"
            )

        return (
            route("GET", "/register", self.nonce),
            route("POST", "/register", self.register),
            route("GET", "/users/{user_id}/admin", self.is_admin, Auth.ADMIN),
            route("PUT", "/users/{user_id}/admin", self.set_admin, Auth.ADMIN),
            route("GET", "/username_available", self.available, Auth.ADMIN),
        )

    async def nonce(self, _request: MatrixRequest) -> Reply:
        """`GET /_synapse/admin/v1/register`."""
        return {"nonce": await self._shared_secret.nonce()}

    async def register(self, request: MatrixRequest) -> Reply:
        """`POST /_synapse/admin/v1/register`."""
        body = request.body(SharedSecretBody)
        made = await self._shared_secret.register(
            SharedSecretRequest(
                nonce=body.nonce,
                username=body.username,
                password=body.password,
                admin=body.admin,
                user_type=body.user_type,
                mac=body.mac,
                display_name=body.displayname,
                device=None if body.inhibit_login else DeviceRequest(),
            )
        )
        return logged_in(made)

    async def is_admin(self, request: MatrixRequest) -> Reply:
        """`GET /_synapse/admin/v1/users/{userId}/admin`."""
        return {"admin": await self._moderation.is_admin(request.requester, request.param("user_id"))}

    async def set_admin(self, request: MatrixRequest) -> Reply:
        """`PUT /_synapse/admin/v1/users/{userId}/admin`."""
        admin = request.body(AdminBody).admin
        await self._moderation.set_admin(request.requester, request.param("user_id"), admin)
        return {}

    async def available(self, request: MatrixRequest) -> Reply:
        """`GET /_synapse/admin/v1/username_available`."""
        await self._usernames.free(request.query.required("username"))
        return {"available": True}
