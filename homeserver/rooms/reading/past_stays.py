# SPDX-License-Identifier: Apache-2.0
"""Whether a user was in a room at events that came late as history, where only members may see them.

Membership intervals are of stream positions, which such events have none of; the state before each tells it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from homeserver.needs import Protocol
from homeserver.rooms.access import RoomAccess
from homeserver.rooms.engine.snapshots import state_at
from storage.events import StoredEvent
from storage.state import SnapshotDelta

PORTION = 20
"""States read at once: each may be that of a hundred thousand members."""


class Snapshots(Protocol):
    """Reads states; `storage.room_history.RoomHistoryStore` is one."""

    async def chains(
        self, wanted: Sequence[tuple[int, int]]
    ) -> dict[tuple[int, int], list[SnapshotDelta]]: ...


class MemberEvents(Protocol):
    """Reads a user's member events; `storage.timelines.TimelineStore` is one."""

    async def memberships_of(self, room: int, user_id: str) -> dict[int, str]: ...


class PastStays:
    """One per process."""

    def __init__(self, *, snapshots: Snapshots, members: MemberEvents) -> None:
        self._snapshots = snapshots
        self._members = members

    async def settle(self, access: RoomAccess, rows: Iterable[StoredEvent]) -> None:
        """Have the user's sight know what it must to judge those events. No query where there is nothing to learn."""
        sight, room = access.sight, access.room.key
        wanted = {
            stored.snapshot for stored in rows if stored.snapshot is not None and sight.asks_past(stored)
        }
        if not wanted:
            return
        memberships = await self._members.memberships_of(room, sight.user_id)
        ordered = sorted(wanted)
        for start in range(0, len(ordered), PORTION):
            chains = await self._snapshots.chains([(room, each) for each in ordered[start : start + PORTION]])
            for (_, snapshot), chain in chains.items():
                state = state_at(chain)
                now = (membership for ordinal, membership in memberships.items() if ordinal in state)
                sight.learn(snapshot, next(now, None))
