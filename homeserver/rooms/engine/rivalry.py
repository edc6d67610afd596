# SPDX-License-Identifier: Apache-2.0
"""Another process that writes the same room: whether there is one, and leaving it its turn.

Owns the judgement of who wrote when. Those times are the room's, noted by whoever writes it or hears that it was
written.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from twisted.internet.defer import Deferred

from homeserver.needs import Protocol
from homeserver.rooms.engine.room import Room

RIVALRY = 0.25
"""Seconds that a process is taken to be writing a room after it has."""
WAY = (0.01, 0.1)
"""Seconds that it is left at least and at most to have its turn: the time of three commits, for what it takes is a
notification, a look at the room and a commit."""


class DelayedCall(Protocol):
    def active(self) -> bool: ...

    def cancel(self) -> None: ...


Later = Callable[[float, Callable[[], None]], DelayedCall]
"""The reactor's `callLater`."""


async def give_way(room: Room | None, later: Later | None) -> None:
    """Let another process that writes the room have the next turn, for some milliseconds.

    Who has just written is the first to know the new head, and would win the next race as well; the other's work
    would be for nothing. So they take turns, each with what gathered meanwhile.
    """
    if room is None or later is None:
        return
    now, since = monotonic(), max(room.written_at, room.rival_lost_at)
    rival_at = max(room.rival_wrote_at, room.rival_lost_at)
    shortest, longest = WAY
    left = since + min(max(3 * room.took, shortest), longest) - now
    if now - rival_at > RIVALRY or room.rival_wrote_at >= since or left <= 0:
        return
    way: Deferred[None] = Deferred()
    room.giving_way = way

    def over() -> None:
        if not way.called:
            way.callback(None)

    call = later(left, over)
    await way
    if call.active():
        call.cancel()


def contested(room: Room | None) -> bool:
    """Whether another process is writing the room: what is planned before its commit is planned in vain."""
    return room is not None and bool(room.rival_wrote_at) and monotonic() - room.rival_wrote_at <= RIVALRY
