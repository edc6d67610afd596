# SPDX-License-Identifier: Apache-2.0
"""`Requester`: on whose behalf a request is served. Owns the value and its checks; `authentication` makes it."""

from dataclasses import dataclass

from homeserver.errors import Forbidden, UserSuspended


@dataclass(frozen=True, slots=True)
class Requester:
    """An authenticated user and device, with the standing they had when the request came in."""

    user_id: str
    device_id: str
    is_guest: bool = False
    is_admin: bool = False
    suspended: bool = False
    locked: bool = False
    """True only on the two endpoints a locked user may call: `POST /logout` and `/logout/all`."""

    def check_not_suspended(self) -> None:
        """Raise UserSuspended if the user is suspended.

        For joining, knocking, inviting and accepting, sending (but for redacting one's own events), changing the
        profile, and redacting what others sent: client-server API, "Account suspension".
        """
        if self.suspended:
            raise UserSuspended

    def check_is(self, user_id: str) -> None:
        """Raise Forbidden unless the requester is that user: for paths that name the user they belong to."""
        if user_id != self.user_id:
            raise Forbidden("The user in the path is not the one the access token belongs to")

    def check_admin(self) -> None:
        """Raise Forbidden unless the requester administers this server."""
        if not self.is_admin:
            raise Forbidden("You are not a server admin")
