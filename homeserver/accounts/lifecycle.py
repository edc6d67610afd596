# SPDX-License-Identifier: Apache-2.0
"""What other parts of the server do when an account begins or ends, as far as accounts need them."""

from homeserver.needs import Protocol


class ArrivingUser(Protocol):
    """Furnishes a new account."""

    async def arrive(self, user_id: str, display_name: str | None) -> None:
        """Give the user a profile; `display_name` None: named like the localpart."""


class DepartingUser(Protocol):
    """Takes a closed account out of the world it took part in."""

    async def depart(self, user_id: str, *, erase: bool) -> None:
        """Leave every room, reject every invite, withdraw every knock, remove the profile.

        `erase`: also delete the user's data that is not events (account data and the like). Must do no harm when
        called again after it failed half-way or succeeded: it is called until it returns, and once more later.
        """
