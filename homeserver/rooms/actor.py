# SPDX-License-Identifier: Apache-2.0
"""Who asks for something in a room: as much of a request's author as the room services need."""

from __future__ import annotations

from typing import Protocol


class Actor(Protocol):
    """A user of this server, with the standing they had when the request came in. Accounts' `Requester` is one."""

    @property
    def user_id(self) -> str: ...

    @property
    def is_guest(self) -> bool: ...

    @property
    def is_admin(self) -> bool: ...

    @property
    def suspended(self) -> bool: ...

    def check_not_suspended(self) -> None:
        """Raise UserSuspended if the account is suspended."""
