# SPDX-License-Identifier: Apache-2.0
"""Who asks for something in a room: as much of a request's author as the room services need."""

from __future__ import annotations

from homeserver.errors import UserSuspended
from homeserver.needs import Protocol


class Actor(Protocol):
    """A user of this server, with the standing they had when the request came in."""

    @property
    def user_id(self) -> str: ...

    @property
    def is_guest(self) -> bool: ...

    @property
    def is_admin(self) -> bool: ...

    @property
    def is_suspended(self) -> bool: ...


def check_not_suspended(actor: Actor) -> None:
    """Raise UserSuspended if the account is suspended (client-server API, "Account suspension").

    Suspended users may leave rooms, reject invites and redact their own events; all else that shows is refused.
    """
    if actor.is_suspended:
        raise UserSuspended
