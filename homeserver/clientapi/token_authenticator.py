# SPDX-License-Identifier: Apache-2.0
"""What stands between the web layer and accounts: who a token belongs to, and the brake on guessing passwords."""

from homeserver.accounts.authentication import Authentication
from homeserver.web.authentication import Requester
from homeserver.web.rate_limits import RateLimits
from homeserver.web.request import MatrixRequest


class TokenAuthenticator:
    """The web layer's `Authenticator` over users' access tokens."""

    def __init__(self, authentication: Authentication) -> None:
        self._authentication = authentication

    async def authenticate(self, token: str, request: MatrixRequest) -> Requester:
        """The requester of a token. Raises UnknownToken."""
        owner = await self._authentication.authenticate(
            token, ip=request.address, user_agent=request.user_agent or ""
        )
        return Requester(
            user_id=owner.user_id,
            device_id=owner.device_id,
            is_guest=owner.guest,
            is_admin=owner.admin,
            is_locked=owner.locked,
            is_suspended=owner.suspended,
            expires_ts=owner.expires_ts,
        )


class GuessBrake:
    """Accounts' `GuessLimits`: attempts and failures to log in, counted apart, per account."""

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits

    def check(self, user_id: str) -> None:
        """Count an attempt. Raises LimitExceeded after too many attempts or failures."""
        self._limits.peek("login_failed", user_id)
        self._limits.check("login_account", user_id)

    def failed(self, user_id: str) -> None:
        """Charge for a wrong guess."""
        self._limits.take("login_failed", user_id)
