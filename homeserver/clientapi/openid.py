# SPDX-License-Identifier: Apache-2.0
"""OpenID tokens: made for the user, redeemed by third parties. Client-server and federation API, "OpenID".

The redeeming endpoint bears a federation path and is served beside the client API, as integrations and call services
need it also where there is no federation.
"""

from homeserver.accounts.openid import OpenId
from homeserver.clientapi.path_user import own_user_id
from homeserver.errors import MissingToken
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route


class OpenIdEndpoints:
    """`/user/{userId}/openid/request_token`, `/_matrix/federation/v1/openid/userinfo`."""

    def __init__(self, server_name: str, openid: OpenId) -> None:
        self._server_name = server_name
        self._openid = openid

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/user/{user_id}/openid/request_token", self.request_token),
            Route(
                "GET",
                "/openid/userinfo",
                self.userinfo,
                under=FEDERATION_V1,
                auth=Auth.NONE,
                limit="discovery",
                besides=("federation",),
            ),
        )

    async def request_token(self, request: MatrixRequest) -> Reply:
        """`POST /user/{userId}/openid/request_token`. The body is for extensions; a broken one is still refused."""
        request.json_object(empty_ok=True)
        made = await self._openid.make(own_user_id(request))
        return {
            "access_token": made.token,
            "token_type": "Bearer",
            "matrix_server_name": self._server_name,
            "expires_in": made.expires_in,
        }

    async def userinfo(self, request: MatrixRequest) -> Reply:
        """`GET /_matrix/federation/v1/openid/userinfo`."""
        token = request.query.string("access_token")
        if not token:
            raise MissingToken
        return {"sub": await self._openid.user_of(token)}
