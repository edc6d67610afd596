# SPDX-License-Identifier: Apache-2.0
"""Cross-signing. Client-server API, "Cross-signing"."""

from __future__ import annotations

from typing import Any, Final

from homeserver.devices.cross_signing import CrossSigning
from homeserver.devices.signatures import Signatures
from homeserver.errors import BadJson, InvalidParam
from homeserver.protocol.identifiers import is_valid_user_id
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route

UNSTABLE_FLAGS: Final = ("org.matrix.e2e_cross_signing",)
"""What `/versions` may promise once these routes are served."""


class CrossSigningBody(Struct, frozen=True):
    """`POST /keys/device_signing/upload`."""

    master_key: dict[str, Any] | None = None
    self_signing_key: dict[str, Any] | None = None
    user_signing_key: dict[str, Any] | None = None
    auth: dict[str, Any] | None = None


class CrossSigningEndpoints:
    """`/keys/device_signing/upload`, `/keys/signatures/upload`."""

    def __init__(self, cross_signing: CrossSigning, signatures: Signatures) -> None:
        self._cross_signing = cross_signing
        self._signatures = signatures

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/keys/device_signing/upload", self.upload),
            Route("POST", "/keys/signatures/upload", self.sign),
        )

    async def upload(self, request: MatrixRequest) -> Reply:
        """`POST /keys/device_signing/upload`."""
        body = request.body(CrossSigningBody)
        keys = {
            "master": body.master_key,
            "self_signing": body.self_signing_key,
            "user_signing": body.user_signing_key,
        }
        await self._cross_signing.upload(request.requester.user_id, keys, body.auth)
        return {}

    async def sign(self, request: MatrixRequest) -> Reply:
        """`POST /keys/signatures/upload`."""
        signed = request.body(dict[str, Any])
        for user_id, objects in signed.items():
            if not is_valid_user_id(user_id):
                raise InvalidParam("Keys are signed by user id")
            if type(objects) is not dict:
                raise BadJson("Signed keys stand under their owner and their id")
        return {"failures": await self._signatures.upload(request.requester.user_id, signed)}
