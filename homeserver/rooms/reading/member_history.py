# SPDX-License-Identifier: Apache-2.0
"""Member events as they were at a point of a room's past, for lazy-loading (client-server API, "Lazy-loading room
members"): responses with events of the past name their senders as they were called then.
"""

from __future__ import annotations

from collections.abc import Iterable

from homeserver.events import RoomEvent
from homeserver.rooms.access import RoomGate
from homeserver.rooms.engine import Room
from storage.timelines import TimelineStore


class MemberHistory:
    """One per process."""

    def __init__(self, *, store: TimelineStore, gate: RoomGate) -> None:
        self._store = store
        self._gate = gate

    async def at(self, room: Room, users: Iterable[str], position: int) -> list[RoomEvent]:
        """Each user's newest member event at or below a stream position.

        From memory for those whose present one stood already, which is nearly everybody; one query for the others.
        """
        present: list[str] = []
        changed: list[str] = []
        for user_id in sorted(set(users)):
            member = room.head.members.get(user_id)
            if member is None:
                continue
            (changed if member.since > position else present).append(user_id)
        found = []
        for user_id, entry in (await self._gate.members(room, present)).items():
            if entry.stored.position <= position:
                found.append(entry)
            else:
                changed.append(user_id)
        if changed:
            stored = await self._store.members_at(room.key, changed, position)
            found.extend(self._gate.in_memory(room, each) for each in stored)
        return found

    async def senders(self, room: Room, shown: list[RoomEvent]) -> list[RoomEvent]:
        """The member events of those who sent what is shown, as of the newest of it."""
        if not shown:
            return []
        newest = max(entry.stored.position for entry in shown)
        return await self.at(room, {entry.stored.sender for entry in shown}, newest)
