# SPDX-License-Identifier: Apache-2.0
"""Run by the interpreter that has LiveKit's own package: reads tokens as LiveKit would, and signs as it does.

Reads a JSON object from standard input and writes one: `verify` (tokens) gives `verified`, each the claims or the name
of the error; `sign` (webhook bodies) gives `signed`, the Authorization header of each.
"""

import base64
import hashlib
import json
import sys
from typing import Any

from livekit import api  # type: ignore[import-not-found, unused-ignore]


def verified(verifier: Any, token: str) -> dict[str, Any]:
    """The claims of a token, or why there are none."""
    try:
        claims = verifier.verify(token)
    except Exception as error:
        return {"error": type(error).__name__}
    video = claims.video
    return {
        "identity": claims.identity,
        "room": video.room,
        "join": video.room_join,
        "create": video.room_create,
        "admin": video.room_admin,
        "publish": video.can_publish,
        "subscribe": video.can_subscribe,
        "own_metadata": video.can_update_own_metadata,
    }


def signed(key: str, secret: str, body: str) -> str:
    """The header of a webhook with that body."""
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    token: str = api.AccessToken(key, secret).with_sha256(digest).to_jwt()
    return token


def main() -> None:
    asked = json.load(sys.stdin)
    key, secret = asked["key"], asked["secret"]
    verifier = api.TokenVerifier(key, secret)
    json.dump(
        {
            "verified": [verified(verifier, token) for token in asked["verify"]],
            "signed": [signed(key, secret, body) for body in asked["sign"]],
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
