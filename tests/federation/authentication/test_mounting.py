# SPDX-License-Identifier: Apache-2.0
"""Which listeners answer what of federation."""

import pytest

from homeserver.clientapi.openid import OpenIdEndpoints
from homeserver.clientapi.versions import UnstableFeatures, VersionEndpoints
from homeserver.config.sections import Listener
from homeserver.web.routing import FEDERATION_V1, FEDERATION_V2, KEY, Auth, Route, Router
from tests.federation.site import echo_routes
from tests.web.loopback import Loopback


async def test_without_federation_there_is_nothing_for_servers() -> None:
    """Routes that ask for a server's signature are not there where nobody could check it."""
    site = Loopback(echo_routes(), listener=Listener(port=0, serves=("federation",)))
    answer = await site.request("GET", "/_matrix/federation/v1/echo/x")
    assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")
    await site.stop()


@pytest.mark.parametrize("serves", ["client", "federation"])
async def test_what_clients_and_servers_ask_for_answers_on_either_listener(serves: str) -> None:
    """The version, and who an OpenID token belongs to."""
    openid = OpenIdEndpoints("us.test", None).routes()  # type: ignore[arg-type]
    routes = (*VersionEndpoints(UnstableFeatures()).routes(), *openid)
    site = Loopback(routes, listener=Listener(port=0, serves=(serves,)))  # type: ignore[arg-type]
    version = await site.request("GET", "/_matrix/federation/v1/version")
    assert version.json["server"]["name"] == "Lares"
    assert (await site.request("GET", "/_matrix/federation/v1/openid/userinfo")).errcode == "M_MISSING_TOKEN"
    client_only = (await site.request("GET", "/_matrix/client/versions")).status
    assert client_only == (200 if serves == "client" else 404)
    await site.stop()


def test_the_prefixes_are_the_specifications() -> None:
    """A route under each finds its handler."""

    async def handler(_request: object) -> dict[str, object]:
        return {}

    for prefix in (*FEDERATION_V1, *FEDERATION_V2, *KEY):
        router = Router([Route("GET", "/x/{y}", handler, under=(prefix,), auth=Auth.SERVER)])
        assert router.match("GET", prefix.encode() + b"/x/1") is not None
