# SPDX-License-Identifier: Apache-2.0
"""Keys of devices. Client-server API, "End-to-End Encryption"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from homeserver.clientapi.sync import sync_token
from homeserver.devices.claiming import KeyClaim
from homeserver.devices.lists import DeviceLists
from homeserver.devices.querying import KeyQuery
from homeserver.devices.uploading import KeyUpload
from homeserver.errors import BadJson, InvalidParam, MissingParam
from homeserver.protocol.identifiers import is_valid_user_id
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Auth, Route

DEFAULT_TIMEOUT: Final = 10_000
"""Milliseconds other servers get."""


class UploadBody(Struct, frozen=True):
    """`POST /keys/upload`."""

    device_keys: dict[str, Any] | None = None
    one_time_keys: dict[str, Any] | None = None
    fallback_keys: dict[str, Any] | None = None


class QueryBody(Struct, frozen=True):
    """`POST /keys/query`."""

    device_keys: dict[str, list[str] | None]
    timeout: int | None = None


class ClaimBody(Struct, frozen=True):
    """`POST /keys/claim`."""

    one_time_keys: dict[str, dict[str, str]]
    timeout: int | None = None


class KeyEndpoints:
    """`/keys/upload`, `/keys/query`, `/keys/claim`, `/keys/changes`."""

    def __init__(
        self,
        *,
        upload: KeyUpload,
        query: KeyQuery,
        claim: KeyClaim,
        lists: DeviceLists,
        position: Callable[[], int],
    ) -> None:
        """`position` tells how far the stream may be shown."""
        self._upload = upload
        self._query = query
        self._claim = claim
        self._lists = lists
        self._position = position

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/keys/upload", self.upload, auth=Auth.GUEST_OK),
            Route("POST", "/keys/query", self.query, auth=Auth.GUEST_OK, limit="reads"),
            Route("POST", "/keys/claim", self.claim, auth=Auth.GUEST_OK),
            Route("GET", "/keys/changes", self.changes),
        )

    async def upload(self, request: MatrixRequest) -> Reply:
        """`POST /keys/upload`."""
        body, requester = request.body(UploadBody, empty_ok=True), request.requester
        if requester.device_id is None:
            raise BadJson("To upload keys, name the device they are of")
        counts = await self._upload.upload(
            requester.user_id,
            requester.device_id,
            device_keys=body.device_keys,
            one_time_keys=body.one_time_keys or {},
            fallback_keys=body.fallback_keys or {},
        )
        return {"one_time_key_counts": counts}

    async def query(self, request: MatrixRequest) -> Reply:
        """`POST /keys/query`."""
        body = request.body(QueryBody)
        _check_users(body.device_keys)
        wanted = {user_id: devices or () for user_id, devices in body.device_keys.items()}
        answer = await self._query.query(request.requester.user_id, wanted, _seconds(body.timeout))
        return {
            "device_keys": answer.device_keys,
            "master_keys": answer.master_keys,
            "self_signing_keys": answer.self_signing_keys,
            "user_signing_keys": answer.user_signing_keys,
            "failures": answer.failures,
        }

    async def claim(self, request: MatrixRequest) -> Reply:
        """`POST /keys/claim`."""
        body = request.body(ClaimBody)
        _check_users(body.one_time_keys)
        answer = await self._claim.claim(body.one_time_keys, _seconds(body.timeout))
        return {"one_time_keys": answer.one_time_keys, "failures": answer.failures}

    async def changes(self, request: MatrixRequest) -> Reply:
        """`GET /keys/changes`. `to` is a hint: what came after it is told too."""
        since, until = request.query.string("from"), request.query.string("to")
        if not since or not until:
            raise MissingParam("from and to are needed")
        sync_token(until)
        news = await self._lists.changed(
            request.requester.user_id, sync_token(since).position, self._position()
        )
        return {"changed": sorted(news.changed), "left": sorted(news.left)}


def _check_users(users: dict[str, Any]) -> None:
    for user_id in users:
        if not is_valid_user_id(user_id):
            raise InvalidParam("Keys are asked for by user id")


def _seconds(timeout: int | None) -> float:
    return max(0, DEFAULT_TIMEOUT if timeout is None else timeout) / 1000
