# SPDX-License-Identifier: Apache-2.0
"""`GET /rooms/{roomId}/state` and `/state/{eventType}/{stateKey}`: the present state, or as it was at one's leave."""

from __future__ import annotations

from homeserver.errors import NotFound
from homeserver.events import RoomEvent
from homeserver.rooms.access import RoomGate
from homeserver.rooms.reading.presenting import Client, Presenter, array
from storage.timelines import TimelineStore


class RoomState:
    """One per process."""

    def __init__(self, *, gate: RoomGate, store: TimelineStore, presenter: Presenter) -> None:
        self._gate = gate
        self._store = store
        self._presenter = presenter

    async def all(self, client: Client, room_id: str) -> bytes:
        """Every state event, a JSON array. Raises Forbidden."""
        access = await self._gate.access_state(client.user_id, room_id)
        return array(await self._presenter.state(client, await self._gate.state_of(access)))

    async def one(self, user_id: str, room_id: str, event_type: str, state_key: str) -> RoomEvent:
        """One state event. Raises NotFound if there is none, Forbidden for the room."""
        access = await self._gate.access_state(user_id, room_id)
        room = access.room
        entry = None
        if access.until is None:
            entry = await self._gate.present_state_event(room, event_type, state_key)
        else:
            ordinals = await self._gate.ordinals_as_of(room, access.until)
            stored = await self._store.of_type(room.key, ordinals, event_type, state_key)
            if stored:
                entry = self._gate.in_memory(room, stored[0])
        if entry is None:
            raise NotFound("The room has no such state event")
        return entry

    async def rendered(self, client: Client, entry: RoomEvent) -> bytes:
        """A state event as clients get it, a JSON object."""
        return (await self._presenter.state(client, [entry]))[0]
