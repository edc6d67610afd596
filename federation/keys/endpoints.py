# SPDX-License-Identifier: Apache-2.0
"""The key API: our keys, and others' through us. Nobody is asked who they are: keys are public."""

from typing import Any

from federation.keys.notary import MOST_SERVERS, Criteria, Notary
from federation.keys.own import OwnKeys
from homeserver.errors import BadJson, InvalidParam, TooLarge
from homeserver.protocol.identifiers import is_valid_server_name
from homeserver.web.rate_limits import RateLimits
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import KEY, Auth, Route

#: Servers of a query that cost as much as a query.
_SERVERS_PER_TOKEN = 10


class KeyEndpoints:
    """`/_matrix/key/v2`."""

    def __init__(self, *, own: OwnKeys, notary: Notary, limits: RateLimits) -> None:
        self._own = own
        self._notary = notary
        self._limits = limits

    def routes(self) -> tuple[Route, ...]:
        return (
            self._route("GET", "/server", self.server, "discovery", trailing_slash=True),
            self._route("GET", "/server/{key_id}", self.server, "discovery"),
            self._route("POST", "/query", self.query_many, "key_queries"),
            self._route("GET", "/query/{server_name}", self.query_one, "key_queries", trailing_slash=True),
            self._route("GET", "/query/{server_name}/{key_id}", self.query_one, "key_queries"),
        )

    def _route(
        self, method: str, template: str, handler: Any, limit: str, *, trailing_slash: bool = False
    ) -> Route:
        return Route(
            method,
            template,
            handler,
            under=KEY,
            auth=Auth.NONE,
            limit=limit,
            trailing_slash=trailing_slash,
            resource="federation",
        )

    async def server(self, _request: MatrixRequest) -> Reply:
        """`GET /_matrix/key/v2/server`; with a key id, as of old, all the same."""
        return self._own.published()

    async def query_one(self, request: MatrixRequest) -> Reply:
        """`GET /_matrix/key/v2/query/{serverName}`."""
        server_name = request.param("server_name")
        if not is_valid_server_name(server_name):
            raise InvalidParam("That is not a server name")
        until = request.query.integer("minimum_valid_until_ts", 0, minimum=0)
        answers = await self._notary.query({server_name: {request.param("key_id", ""): until}})
        return {"server_keys": answers}

    async def query_many(self, request: MatrixRequest) -> Reply:
        """`POST /_matrix/key/v2/query`."""
        wanted = _wanted(request.json_object().get("server_keys"))
        self._limits.take("key_queries", request.counted_as, len(wanted) / _SERVERS_PER_TOKEN)
        return {"server_keys": await self._notary.query(wanted)}


def _wanted(server_keys: object) -> dict[str, Criteria]:
    """Servers and criteria of a query; what is no server name is left out. Raises BadJson and TooLarge."""
    if type(server_keys) is not dict:
        raise BadJson("server_keys must be an object")
    if len(server_keys) > MOST_SERVERS:
        raise TooLarge(f"At most {MOST_SERVERS} servers can be asked about at once")
    return {
        server_name: _criteria(given)
        for server_name, given in server_keys.items()
        if is_valid_server_name(server_name)
    }


def _criteria(given: object) -> Criteria:
    if type(given) is not dict:
        raise BadJson("server_keys must hold objects by server name")
    criteria = {}
    for key_id, each in given.items():
        until = each.get("minimum_valid_until_ts", 0) if type(each) is dict else None
        if type(until) is not int:
            raise BadJson("minimum_valid_until_ts must be an integer")
        criteria[key_id] = until
    return criteria
