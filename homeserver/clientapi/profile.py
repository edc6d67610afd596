# SPDX-License-Identifier: Apache-2.0
"""Profiles. Client-server API, "Profiles"; MSC4133's unstable path."""

from __future__ import annotations

from homeserver.clientapi.path_user import own_user_id
from homeserver.errors import InvalidParam, MissingParam
from homeserver.profiles.fields import AVATAR_URL, DISPLAYNAME, check_key
from homeserver.profiles.lookup import ProfileLookup
from homeserver.profiles.service import Profiles
from homeserver.protocol.identifiers import is_valid_user_id
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route

_UNSTABLE = "/_matrix/client/unstable/uk.tcpip.msc4133"


class ProfileEndpoints:
    """`/profile/{userId}`, `/profile/{userId}/{keyName}`."""

    def __init__(self, *, profiles: Profiles, lookup: ProfileLookup) -> None:
        self._profiles = profiles
        self._lookup = lookup

    def routes(self) -> tuple[Route, ...]:
        whole, field = "/profile/{user_id}", "/profile/{user_id}/{key}"
        return (
            Route("GET", whole, self.get, auth=Auth.NONE, also=(_UNSTABLE + whole,)),
            Route("GET", field, self.get_field, auth=Auth.NONE, also=(_UNSTABLE + field,)),
            Route("PUT", field, self.put, suspended_ok=False, also=(_UNSTABLE + field,)),
            Route("DELETE", field, self.delete, suspended_ok=False, also=(_UNSTABLE + field,)),
            # Of a profile's fields guests may change only their display name ("Guest Access").
            *self._name(f"{whole}/{DISPLAYNAME}", Auth.GUEST_OK),
            *self._name(f"{whole}/{AVATAR_URL}", Auth.USER),
        )

    def _name(self, path: str, auth: Auth) -> tuple[Route, ...]:
        """A field that is written into every room of the user, and so has a limit of its own."""
        return tuple(
            Route(
                method,
                path,
                handler,
                also=(_UNSTABLE + path,),
                auth=auth,
                limit="profile",
                suspended_ok=False,
            )
            for method, handler in (("PUT", self.put), ("DELETE", self.delete))
        )

    async def get(self, request: MatrixRequest) -> Reply:
        """`GET /profile/{userId}`."""
        return await self._lookup.get(_user_id(request))

    async def get_field(self, request: MatrixRequest) -> Reply:
        """`GET /profile/{userId}/{keyName}`."""
        key = _key(request)
        return {key: await self._lookup.get_field(_user_id(request), key)}

    async def put(self, request: MatrixRequest) -> Reply:
        """`PUT /profile/{userId}/{keyName}`."""
        user_id, key = own_user_id(request), _key(request)
        check_key(key)
        body = request.json_object()
        if key not in body:
            raise MissingParam(f"The body must have the key {key}")
        await self._profiles.set_field(user_id, key, body[key])
        return {}

    async def delete(self, request: MatrixRequest) -> Reply:
        """`DELETE /profile/{userId}/{keyName}`."""
        await self._profiles.delete_field(own_user_id(request), _key(request))
        return {}


def _key(request: MatrixRequest) -> str:
    return request.param("key", request.route.template.rpartition("/")[2])


def _user_id(request: MatrixRequest) -> str:
    user_id = request.param("user_id")
    if not is_valid_user_id(user_id):
        raise InvalidParam("Not a user id")
    return user_id
