# SPDX-License-Identifier: Apache-2.0
"""JSON Web Tokens signed with the key this server shares with LiveKit.

Owns which grants are given: into one room for participants, over rooms for this server's own requests; and the proof
that a webhook is LiveKit's. LiveKit's own documentation, "Authentication" and "Webhooks", has the claims.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final

from homeserver.errors import Unauthorized

JOIN_LIFETIME: Final = 3600
"""Seconds in which a participant may connect. Who is connected gets new ones from LiveKit."""
_OWN_LIFETIME: Final = 60
_LEEWAY: Final = 60
_ALGORITHM: Final = "HS256"


class LiveKitTokens:
    """Signs and checks with one key. `clock` gives seconds since 1970."""

    def __init__(self, *, api_key: str, api_secret: str, clock: Callable[[], float]) -> None:
        self._api_key = api_key
        self._api_secret = api_secret
        self._clock = clock
        # Loaded where there is a key: most servers have none, and it is megabytes.
        self._jwt: Any = import_module("jwt")

    def joining(self, room: str, identity: str) -> str:
        """Lets the bearer into a room that is there, to hear and be heard under that identity."""
        grants = {
            "roomJoin": True,
            "room": room,
            "canPublish": True,
            "canSubscribe": True,
            "canUpdateOwnMetadata": True,
        }
        return self._signed(grants, JOIN_LIFETIME, sub=identity)

    def making_rooms(self) -> str:
        """Lets this server make rooms."""
        return self._signed({"roomCreate": True}, _OWN_LIFETIME)

    def listing_rooms(self) -> str:
        """Lets this server see which rooms there are."""
        return self._signed({"roomList": True}, _OWN_LIFETIME)

    def watching(self, room: str) -> str:
        """Lets this server see who is in a room, and remove them."""
        return self._signed({"roomAdmin": True, "room": room}, _OWN_LIFETIME)

    def check_webhook(self, authorization: str, body: bytes) -> None:
        """Raises Unauthorized unless the token is signed with this key, for this very body, and not over."""
        try:
            claims: dict[str, Any] = self._jwt.decode(
                authorization,
                self._api_secret,
                algorithms=[_ALGORITHM],
                issuer=self._api_key,
                options={
                    "require": ["exp", "iss"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except self._jwt.InvalidTokenError as error:
            raise Unauthorized("Not signed with the key of rtc.api_key") from error
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        signed = claims.get("sha256")
        if not isinstance(signed, str) or not hmac.compare_digest(signed.encode(), digest.encode()):
            raise Unauthorized("The signature is of another body")
        expires = claims["exp"]
        if type(expires) not in (int, float) or expires + _LEEWAY < self._clock():
            raise Unauthorized("The signature is too old")

    def _signed(self, grants: Mapping[str, Any], lifetime: int, **claims: str) -> str:
        now = int(self._clock())
        body = {"iss": self._api_key, "nbf": now, "exp": now + lifetime, "video": grants, **claims}
        token: str = self._jwt.encode(body, self._api_secret, algorithm=_ALGORITHM)
        return token
