# SPDX-License-Identifier: Apache-2.0
"""Lifting a ban: the user has then left, and may join or be invited again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.errors import BadState
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.membership.member_content import check_target, member_content
from homeserver.rooms.membership.writing import MEMBER, require_joined, write_member
from homeserver.rooms.refusals import insufficient_power
from homeserver.rooms.whole_rooms import WholeRooms


class Unbanning:
    def __init__(self, *, engine: RoomEngine, whole: WholeRooms) -> None:
        self._engine = engine
        self._whole = whole

    async def unban(
        self,
        actor: Actor,
        room_id: str,
        user_id: str,
        *,
        reason: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Lift a user's ban; the event id. Raises Forbidden, and BadState if there is none."""
        check_not_suspended(actor)
        check_target(user_id)
        sender = actor.user_id

        def plan(head: RoomHead) -> Draft:
            require_joined(head, sender)
            if head.membership(user_id) != "ban":
                raise BadState(f"{user_id} is not banned")
            levels = head.power_levels
            level = levels.user_level(sender)
            # The room versions' rules ask for the power to kick besides: lifting a ban is a leave of another's.
            if level < levels.ban or level < levels.kick or levels.user_level(user_id) >= level:
                raise insufficient_power(f"You don't have permission to unban {user_id}")
            return Draft(MEMBER, sender, member_content("leave", reason=reason, extra=extra), user_id)

        await self._whole.knows(room_id, user_id)
        return await write_member(self._engine, room_id, sender, user_id, plan)
