# SPDX-License-Identifier: Apache-2.0
"""What reading asks of other servers where history is missing here, and the answer of a server that talks to none.

Owns the interface only; `federation.history` does it.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NoReturn

from msgspec import Struct

from homeserver.needs import Protocol
from homeserver.rooms.engine import Room


class Filling(Enum):
    """How an attempt to fill a gap ended."""

    FILLED = auto()
    """More is stored than before; there may be a gap still, further back."""
    LOST = auto()
    """Nothing is to be had there, for some time at least."""
    UNDER_WAY = auto()
    """It takes longer than it may; it goes on, and asking again is worth it."""


class Filled(Struct, frozen=True):
    """See `Filling`; `next_gap` is the depth of the next event further down whose past could be asked for."""

    outcome: Filling
    next_gap: int | None = None


class MissingHistory(Protocol):
    """The past of rooms, as far as other servers have it. Nothing is raised for what others do or fail to do."""

    def obtainable(self, room: Room) -> bool:
        """Whether there is anybody to ask: the room is live here and another server is in it. Costs nothing."""
        ...

    async def fill(self, room: Room, *, upto: int, above: int, patience: float) -> Filled:
        """Have stored what is missing before events with above < depth ≤ upto, the deepest first, some hundred events
        at most. `patience`: seconds to wait at most.
        """
        ...

    async def find(self, room: Room, event_id: str, *, patience: float) -> bool:
        """Have one event stored in its place; whether it is now."""
        ...

    async def find_by_time(self, room: Room, timestamp: int, *, backwards: bool, patience: float) -> bool:
        """Have stored the event nearest to a time, as others know it; whether one was that had not been."""
        ...


class NoMissingHistory:
    """For a server that does not federate."""

    def obtainable(self, room: Room) -> bool:
        """There is nobody."""
        return False

    async def fill(self, room: Room, *, upto: int, above: int, patience: float) -> NoReturn:
        """Not to be called."""
        raise AssertionError("nobody can be asked")

    async def find(self, room: Room, event_id: str, *, patience: float) -> bool:
        """Nobody is asked."""
        return False

    async def find_by_time(self, room: Room, timestamp: int, *, backwards: bool, patience: float) -> bool:
        """Nobody is asked."""
        return False
