# SPDX-License-Identifier: Apache-2.0
"""The real web server with federation on: requests of remote servers over real HTTP, their keys from memory."""

import io
import json
from typing import Any

from federation.authentication import RequestAuthentication
from federation.keys.endpoints import KeyEndpoints
from homeserver.config.sections import Listener
from homeserver.observability.access_log import AccessLog
from homeserver.observability.log_output import LogOutput
from homeserver.observability.metrics import HttpMetrics
from homeserver.web.listeners import WebServer
from homeserver.web.rate_limits import DEFAULTS, Limit, RateLimits
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route
from tests.federation.keys.world import US, World
from tests.federation.servers import RemoteServer
from tests.reactor import reactor
from tests.web.loopback import Answer, Loopback, Tokens


class FederationSite(Loopback):
    """Listens with the routes given besides the key API. Close it with `await stop()`."""

    def __init__(
        self, world: World, routes: tuple[Route, ...] = (), limits: dict[str, Limit] | None = None
    ) -> None:
        self.limits = RateLimits(
            reactor.seconds, enabled=limits is not None, limits={**DEFAULTS, **(limits or {})}
        )
        endpoints = KeyEndpoints(own=world.own, notary=world.notary, limits=self.limits)
        self.metrics = HttpMetrics()
        self._connections = []
        self._tls = None
        self.server = WebServer(
            reactor,
            routes=(*endpoints.routes(), *echo_routes(), *routes),
            authenticator=Tokens({}),
            server_authenticator=RequestAuthentication(
                server_name=US, keys=world.keyring, limits=self.limits
            ),
            limits=self.limits,
            metrics=self.metrics,
            access_log=AccessLog(LogOutput(io.StringIO())),
            max_body=8 * 2**20,
        )
        self.open = self.server.listen(Listener(port=0, serves=("federation",)))

    async def signed(
        self,
        server: RemoteServer,
        method: str,
        target: str,
        content: Any = None,
        *,
        destination: str | None = US,
        raw: bytes | None = None,
        sent_target: str | None = None,
        **changes: str,
    ) -> Answer:
        """A request of a remote server; `raw` and `sent_target` are sent in place of what was signed."""
        header = server.authorization(destination, method, target, content, **changes)
        body = raw if raw is not None else (None if content is None else json.dumps(content).encode())
        return await self.request(method, sent_target or target, body=body, headers={"Authorization": header})


def echo_routes() -> tuple[Route, ...]:
    """`/echo/{word}`: who asked, and what."""

    async def echo(request: MatrixRequest) -> Reply:
        body = request.json_object() if request.content else None
        return {"origin": request.origin, "word": request.param("word"), "body": body}

    return tuple(
        Route(method, "/echo/{word}", echo, under=FEDERATION_V1, auth=Auth.SERVER, resource="federation")
        for method in ("GET", "PUT", "POST")
    )
