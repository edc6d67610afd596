# SPDX-License-Identifier: Apache-2.0
"""Whether it is worth asking a server: what the client needs to know, and tells. Owns the interface only."""

from enum import Enum, auto

from homeserver.needs import Protocol


class Patience(Enum):
    """How a call meets a server that failed lately."""

    NORMAL = auto()
    """Not tried before it is time to."""
    IGNORE_BACKOFF = auto()
    """Tried all the same, since a person waits for just this server."""


class Availability(Protocol):
    """Remembers which servers answer. All of it is quick, and works on memory."""

    def may_try(self, destination: str) -> bool:
        """Whether it is time to ask the server (again)."""
        ...

    def succeeded(self, destination: str) -> None:
        """It answered, be it with an error."""
        ...

    def failed(self, destination: str) -> None:
        """It could not be reached, or could not answer."""
        ...


class AlwaysAvailable:
    """Forgets every failure: an `Availability` where nothing is remembered."""

    def may_try(self, destination: str) -> bool:
        """True."""
        return True

    def succeeded(self, destination: str) -> None:
        """Nothing happens."""

    def failed(self, destination: str) -> None:
        """Nothing happens."""
