# SPDX-License-Identifier: Apache-2.0
"""What a room's queue takes: plans, work and deeds, what each must answer, and what is remembered of one that waits.

Owns these shapes; draining the queue is the writer's (`writer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred

from homeserver.events import RoomEvent
from homeserver.needs import Protocol
from homeserver.rooms.engine.drafts import Draft, SendTransaction
from homeserver.rooms.engine.head import RoomHead
from homeserver.rooms.engine.moving import Mark
from homeserver.rooms.engine.room import Room
from homeserver.rooms.engine.working import WorkingRoom

Plan = Callable[[RoomHead], Sequence[Draft]]
"""Says what to write, given the room at its newest. May raise to refuse; may run more than once."""


class Written(Struct, frozen=True):
    """The events that now stand; none if the plan wanted none.

    For a transaction that stood already, `replayed` is the event id it gave then and `events` is empty.
    """

    events: Sequence[RoomEvent] = ()
    replayed: str | None = None

    @property
    def event_id(self) -> str:
        """The id of the last event written, or the one replayed."""
        return self.replayed if self.replayed is not None else self.events[-1].stored.event_id


class LoadFirst(Exception):
    """Raised by a `Work` that cannot go on without what its `load` loads."""


class HeadMoved(Exception):
    """Raised by the `load` of a `Work` that has read what is newer than the head it was given."""


class Work(Protocol):
    """Something else than a plan that is done on a room's newest head, in the same batches as plans are."""

    @property
    def weight(self) -> int:
        """About how many events it writes."""
        ...

    def run(self, room: Room, working: WorkingRoom) -> object:
        """Do it; synchronous, may run more than once. What it returns is the answer once the batch stands. What it did
        is undone if it raises: LoadFirst or MissingEvents to be run again, anything else to fail."""
        ...

    async def load(self) -> None:
        """Load what is lacking. Raises HeadMoved."""
        ...

    def landed(self, room: Room, working: WorkingRoom) -> None:
        """The batch stands."""
        ...


class Deed(Protocol):
    """Something that is done to a room by itself, while nothing else is written there by this process."""

    async def run(self) -> object: ...


class Pending(Struct):
    done: Deferred[Any]
    plan: Plan | None = None
    work: Work | None = None
    deed: Deed | None = None
    """One of the three."""
    users: Sequence[str] = ()
    transaction: SendTransaction | None = None
    outcome: object = None
    """Of work."""
    tries: int = 0
    first: int = 0
    last: int = 0
    mark: Mark | None = None
    """The room before it."""
    refused: Exception | None = None
    """Why it is not written, unless its transaction turns out to stand."""


def sender_of(pending: Pending) -> str:
    """Whose turn it takes; what is no plan stays in its order."""
    return pending.users[0] if pending.plan is not None and pending.users else ""
