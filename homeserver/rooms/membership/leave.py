# SPDX-License-Identifier: Apache-2.0
"""Leaving a room: also rejecting an invite and withdrawing a knock. Client-server API, "Leaving rooms"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.errors import Forbidden
from homeserver.rooms.actor import Actor
from homeserver.rooms.engine import Draft, Room, RoomEngine, RoomHead
from homeserver.rooms.locating import LikelyServers
from homeserver.rooms.membership.member_content import member_content
from homeserver.rooms.membership.writing import MEMBER, MemberPlan, write_member
from homeserver.rooms.refusals import not_joined
from homeserver.rooms.remote import RemoteRooms


class Leaving:
    """Lets users go, suspended ones and guests too."""

    def __init__(self, *, engine: RoomEngine, remote: RemoteRooms, likely: LikelyServers) -> None:
        self._engine = engine
        self._remote = remote
        self._likely = likely

    async def leave(
        self,
        actor: Actor,
        room_id: str,
        *,
        reason: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Leave; the member event's id. Who has left already has left (of a room this server is not in any more the id
        is empty then). Raises Forbidden.
        """
        content = member_content("leave", reason=reason, extra=extra)
        room = await self._engine.cache.get(room_id)
        if room is not None and not room.head.is_resident(self._engine.server_name):
            return await self._leave_elsewhere(actor.user_id, room, content)
        plan = leave_plan(actor.user_id, content)
        return await write_member(self._engine, room_id, actor.user_id, actor.user_id, plan)

    async def _leave_elsewhere(self, user_id: str, room: Room, content: Mapping[str, Any]) -> str:
        """Out of a room this server is not in, which the user is invited to, knocks on, or is out of already."""
        if room.head.membership(user_id) in ("invite", "knock"):
            likely = await self._likely.of(room.room_id, user_id)
            event_id = await self._remote.leave(user_id, room.room_id, servers=likely, content=content)
            if event_id is not None:
                return event_id
        current = await self._engine.cache.get(room.room_id)
        match None if current is None else current.head.membership(user_id):
            case "leave":
                return ""
            case "ban":
                raise Forbidden("You are banned from this room")
        raise not_joined(user_id, room.room_id)


def leave_plan(user_id: str, content: Mapping[str, Any]) -> MemberPlan:
    """The plan of a user's own leaving."""

    def plan(head: RoomHead) -> Draft | None:
        match head.membership(user_id):
            case "join" | "invite" | "knock":
                return Draft(MEMBER, user_id, content, user_id)
            case "leave":
                return None
            case "ban":
                raise Forbidden("You are banned from this room")
        raise not_joined(user_id, head.room_id)

    return plan
