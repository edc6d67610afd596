# SPDX-License-Identifier: Apache-2.0
"""What is asked before a request is served: whether this process knows what the others have told clients.

`homeserver/stream/hearing.py` does it. Owns the question and the answer of a process that is by itself.
"""

from homeserver.needs import Protocol


class Hearing(Protocol):
    """Asked as `if hearing.has_others and hearing.behind(): await hearing.catch_up()`."""

    @property
    def has_others(self) -> bool:
        """Whether there is anybody to hear of."""

    def behind(self) -> bool:
        """Whether something that was told has not been heard here yet."""

    async def catch_up(self) -> None:
        """Return once everything that was told before the call is known here."""


class NoOthers:
    """There is no other process."""

    has_others = False

    def behind(self) -> bool:
        """Nothing is told."""
        return False

    async def catch_up(self) -> None:
        """Nothing is missing."""
