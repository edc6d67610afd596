# SPDX-License-Identifier: Apache-2.0
"""What other servers ask about our users' devices (server-server API, "Device Management", "End-to-End Encryption").

`GET /user/devices/{userId}`, `POST /user/keys/query`, `POST /user/keys/claim`. Any server may ask: who knows a
user's id may write to their devices.
"""

from __future__ import annotations

from typing import Any

from homeserver.devices.claiming import KeyClaim
from homeserver.devices.querying import StoredKeys
from homeserver.errors import InvalidParam, NotFound
from homeserver.protocol.identifiers import is_valid_user_id
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import FEDERATION_V1, Auth, Route


class QueryBody(Struct, frozen=True):
    """`POST /user/keys/query`."""

    device_keys: dict[str, list[str] | None]


class ClaimBody(Struct, frozen=True):
    """`POST /user/keys/claim`."""

    one_time_keys: dict[str, dict[str, str]]


class DeviceServing:
    """See the module."""

    def __init__(self, *, server_name: str, stored: StoredKeys, claim: KeyClaim) -> None:
        self._server_name = server_name
        self._stored = stored
        self._claim = claim

    def routes(self) -> list[Route]:
        """To be mounted."""
        return [
            self._route("GET", "/user/devices/{user_id}", self.devices, "server_reads"),
            self._route("POST", "/user/keys/query", self.query, "server_reads"),
            self._route("POST", "/user/keys/claim", self.claim, "server_writes"),
        ]

    @staticmethod
    def _route(method: str, template: str, handler: Any, limit: str) -> Route:
        return Route(
            method,
            template,
            handler,
            under=FEDERATION_V1,
            auth=Auth.SERVER,
            resource="federation",
            limit=limit,
        )

    async def devices(self, request: MatrixRequest) -> Reply:
        """`GET /user/devices/{userId}`."""
        user_id = request.param("user_id")
        if not is_valid_user_id(user_id):
            raise InvalidParam("Not a user id")
        if user_id.partition(":")[2] != self._server_name:
            raise NotFound("That user is not of this server")
        found = await self._stored.devices_for_server(user_id)
        reply: dict[str, object] = {
            "user_id": user_id,
            "stream_id": found.stream_id,
            "devices": found.devices,
        }
        if found.master_key is not None:
            reply["master_key"] = found.master_key
        if found.self_signing_key is not None:
            reply["self_signing_key"] = found.self_signing_key
        return reply

    async def query(self, request: MatrixRequest) -> Reply:
        """`POST /user/keys/query`."""
        wanted = {user_id: devices or () for user_id, devices in request.body(QueryBody).device_keys.items()}
        answer = await self._stored.query_for_server(wanted)
        return {
            "device_keys": answer.device_keys,
            "master_keys": answer.master_keys,
            "self_signing_keys": answer.self_signing_keys,
        }

    async def claim(self, request: MatrixRequest) -> Reply:
        """`POST /user/keys/claim`."""
        answer = await self._claim.claim_for_server(request.body(ClaimBody).one_time_keys)
        return {"one_time_keys": answer.one_time_keys}
