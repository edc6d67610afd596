# SPDX-License-Identifier: Apache-2.0
"""`Actor`: what accounts need to know of whoever asks. What authenticates requests gives more and fits this."""

from homeserver.needs import Protocol


class Actor(Protocol):
    """An authenticated user."""

    @property
    def user_id(self) -> str:
        """Who."""

    @property
    def device_id(self) -> str | None:
        """On which device; None for an application service that names none."""

    @property
    def is_admin(self) -> bool:
        """Whether they administer this server."""
