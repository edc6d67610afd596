# SPDX-License-Identifier: Apache-2.0
"""Loose ends of a room's graph tied together where nobody of ours says anything.

Each extremity costs everybody who builds on them all; a message of ours merges them. In a room where only others write,
branches that nobody merges would grow in number without end.
"""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.engine.head import host_of
from homeserver.rooms.engine.working import DUMMY

MOST_EXTREMITIES = 10
"""More are merged."""


def extremities_to_merge(head: RoomHead, own_server: str) -> str | None:
    """If the room has too many extremities: the user of ours by whom they are to be merged."""
    if len(head.extremities) <= MOST_EXTREMITIES:
        return None
    levels = head.power_levels
    for user_id, member in head.members.items():
        if (
            member.membership == "join"
            and host_of(user_id) == own_server
            and levels.may_send(user_id, DUMMY, is_state=False)
        ):
            return user_id
    return None


async def send_dummy(engine: RoomEngine, room_id: str) -> bool:
    """Merge the room's extremities if there are too many (at most 20 of them at once); whether that was so."""
    room = await engine.cache.get(room_id)
    if room is None:
        return False
    sender = extremities_to_merge(room.head, engine.server_name)
    if sender is None:
        return False

    def plan(head: RoomHead) -> Sequence[Draft]:
        # Whoever spoke meanwhile has merged them.
        return [Draft(DUMMY, sender, {})] if extremities_to_merge(head, engine.server_name) == sender else []

    return bool((await engine.write(room_id, plan, users=(sender,))).events)
