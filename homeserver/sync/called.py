# SPDX-License-Identifier: Apache-2.0
"""Invitations and knocks: what the user is shown of rooms they are not in yet (client-server API, "Stripped state")."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from homeserver.events.client_format import stripped_state_event
from homeserver.sync.joined import Rooms
from homeserver.sync.placement import Called
from homeserver.sync.state import EventLoader


class CalledRooms:
    """Writes the `invite` and `knock` sections' rooms. One per process."""

    def __init__(self, *, rooms: Rooms, loader: EventLoader) -> None:
        self._rooms = rooms
        self._loader = loader

    async def entries(self, placements: Sequence[Called]) -> list[bytes]:
        """`"<room id>":{"invite_state":{"events":[…]}}` for each, the user's own member event last."""
        if not placements:
            return []
        by_id = await self._rooms.get_many(keys=[placement.room for placement in placements])
        rooms = {room.key: room for room in by_id.values()}
        places = [(p.room, p.ordinal) for p in placements if p.room in rooms]
        found = await self._loader.load(places, rooms, {})
        entries = []
        for placement in placements:
            events = placement.stripped_state.encode()
            own = found.get((placement.room, placement.ordinal))
            if own is not None:
                separator = b"" if events == b"[]" else b","
                events = events[:-1] + separator + orjson.dumps(stripped_state_event(own.event)) + b"]"
            name = (
                b'{"invite_state":{"events":'
                if placement.membership == "invite"
                else b'{"knock_state":{"events":'
            )
            entries.append(orjson.dumps(placement.room_id) + b":" + name + events + b"}}")
        return entries
