# SPDX-License-Identifier: Apache-2.0
"""Leaving a room: also rejecting an invite and withdrawing a knock. Client-server API, "Leaving rooms"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.errors import Forbidden
from homeserver.rooms.actor import Actor
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.membership.member_content import member_content
from homeserver.rooms.membership.writing import MEMBER, MemberPlan, write_member
from homeserver.rooms.refusals import not_joined


class Leaving:
    """Lets users go, suspended ones and guests too."""

    def __init__(self, *, engine: RoomEngine) -> None:
        self._engine = engine

    async def leave(
        self,
        actor: Actor,
        room_id: str,
        *,
        reason: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Leave; the member event's id. Who has left already has left. Raises Forbidden."""
        plan = leave_plan(actor.user_id, member_content("leave", reason=reason, extra=extra))
        return await write_member(self._engine, room_id, actor.user_id, actor.user_id, plan)


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
