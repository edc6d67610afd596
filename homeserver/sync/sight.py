# SPDX-License-Identifier: Apache-2.0
"""What the reader may see of the rooms in a response. The usual case, a stay that is older than every event, is told
without asking; for others the user's intervals are read, for all rooms in one query.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from homeserver.events import RoomEvent
from homeserver.events.rendering import Past
from homeserver.needs import Protocol
from homeserver.protocol.filters import RoomEventFilter
from homeserver.protocol.visibility import HistoryVisibility
from homeserver.rooms.access import Sight
from homeserver.sync.timeline import Pass

_OPEN = int(HistoryVisibility.SHARED)
"""Visibilities up to this one show a member the past before they joined."""


class Sights(Protocol):
    """Gives what a user may see of rooms; `rooms.access.RoomGate` does."""

    async def sights(self, user_id: str, rooms: Sequence[int]) -> dict[int, Sight]: ...


class _Stay:
    """The past of one who was joined all along."""

    __slots__ = ()

    def membership_at(self, position: int) -> str | None:
        return "join"

    def may_see_replaced(self, entry: RoomEvent) -> bool:
        return True


STAY: Past = _Stay()


def within_stay(events: Iterable[RoomEvent], joined_at: int) -> bool:
    """Whether a reader who joined at that position saw all of it as a member, replaced state included."""
    for entry in events:
        stored = entry.stored
        if stored.position < joined_at:
            return False
        if (
            stored.replaced_position is not None
            and stored.replaced_position < joined_at
            and (stored.replaced_visibility is None or stored.replaced_visibility > _OPEN)
        ):
            return False
    return True


def timeline_pass(
    wanted: RoomEventFilter, room_id: str, ignored: frozenset[str], sight: Sight | None
) -> Pass | None:
    """Which events belong in a timeline: those the reader may see (`sight` None: all), wants, and does not ignore."""
    if wanted.selects_all and not ignored and sight is None:
        return None
    if not wanted.allows_room(room_id):
        return lambda _entry: False
    everything = wanted.selects_all

    def passes(entry: RoomEvent) -> bool:
        stored = entry.stored
        if stored.sender in ignored and stored.state_key is None:
            return False
        if not everything and not wanted.allows_event(
            stored.type, stored.sender, _NO_CONTENT if wanted.contains_url is None else entry.event.content
        ):
            return False
        return sight is None or sight.may_see(entry)

    return passes


_NO_CONTENT: Mapping[str, object] = {}
