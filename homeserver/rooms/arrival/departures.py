# SPDX-License-Identifier: Apache-2.0
"""Those of ours who left a room before whoever lets us in again had heard of it.

What a server answers of a room is the state as it knows it: of a leave that is still on its way there it knows nothing.
Here that leave is known, and so never comes again: without this its user would be a member on this server for good,
and their next join no join at all. The leave keeps its place instead, as it does with the others once they have it.
"""

from __future__ import annotations

from collections.abc import Mapping

from homeserver.events import RoomEvent
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms.arrival.standing import MEMBER, Piece
from homeserver.rooms.engine import Room
from homeserver.rooms.engine.head import StateKey
from storage.events import EventStore

GONE = frozenset(("leave", "ban"))


async def departures(
    events: EventStore,
    room: Room,
    state: Mapping[StateKey, int],
    *,
    server_name: str,
    before: int | None = None,
) -> dict[StateKey, Piece]:
    """Member events of our users that stand in place of the older ones in `state`, which maps to ordinals.

    `room` is as it was known; `before`: only those older than that ordinal.
    """
    newer = [
        (room.key, member.ordinal)
        for user_id, member in room.head.members.items()
        if member.membership in GONE
        and domain_of(user_id) == server_name
        and state.get((MEMBER, user_id), member.ordinal) < member.ordinal
        and (before is None or member.ordinal < before)
    ]
    found: dict[StateKey, Piece] = {}
    for stored in await events.by_ordinals(newer) if newer else ():
        # What came to the doorway only (a refused invite) is no part of the room that others know.
        if stored.flags == 0 and stored.snapshot is not None and stored.auth_chain is not None:
            entry = RoomEvent(stored, room.room_id, room.head.version)
            found[entry.event.state_tuple] = Piece(stored.ordinal, entry.event)
    return found
