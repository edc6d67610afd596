# SPDX-License-Identifier: Apache-2.0
"""Credentials for the TURN server that relays calls. Client-server API, "Voice over IP".

Owns their making: by a secret that this server and the TURN server share (draft-uberti-behave-turn-rest, as coturn has
it with `use-auth-secret`), or the fixed ones of the configuration. Speaks to no TURN server.
"""

import base64
import hashlib
import hmac

from msgspec import Struct

from homeserver.config.call_sections import Turn
from homeserver.config.private_file import given_or_read


class TurnLogin(Struct, frozen=True, kw_only=True):
    """How to use the TURN server."""

    username: str
    password: str
    uris: tuple[str, ...]
    ttl: int
    """Seconds for which new allocations can be made with it."""

    def __repr__(self) -> str:
        return f"TurnLogin({self.username!r}, …)"


class TurnCredentials:
    """Makes the credentials of one TURN server."""

    def __init__(
        self,
        *,
        uris: tuple[str, ...],
        lifetime: int,
        secret: str | None = None,
        username: str = "",
        password: str = "",
    ) -> None:
        """`lifetime` in seconds. Without `secret`, everybody gets `username` and `password`."""
        self._uris = uris
        self._lifetime = lifetime
        self._secret = None if secret is None else secret.encode()
        self._fixed = (username, password)

    def for_user(self, user_id: str, now: float) -> TurnLogin:
        """The user's credentials as of `now`, in seconds since 1970."""
        username, password = self._fixed
        if self._secret is not None:
            username = f"{int(now) + self._lifetime}:{user_id}"
            # SHA-1 is what TURN servers expect; as a MAC it is not broken.
            digest = hmac.digest(self._secret, username.encode(), hashlib.sha1)
            password = base64.b64encode(digest).decode()
        return TurnLogin(username=username, password=password, uris=self._uris, ttl=self._lifetime)


def turn_credentials(turn: Turn) -> TurnCredentials | None:
    """As configured; None where no TURN server is. Raises StartRefused if the secret's file cannot be read."""
    if not turn.uris:
        return None
    return TurnCredentials(
        uris=turn.uris,
        lifetime=int(turn.credential_lifetime),
        secret=given_or_read(turn.shared_secret, turn.shared_secret_file),
        username=turn.username or "",
        password=turn.password or "",
    )
