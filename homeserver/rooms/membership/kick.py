# SPDX-License-Identifier: Apache-2.0
"""Making another user leave: also taking back an invite and turning down a knock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.errors import BadState
from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.membership.member_content import check_target, member_content
from homeserver.rooms.membership.writing import MEMBER, require_joined, write_member
from homeserver.rooms.refusals import insufficient_power, not_joined
from homeserver.rooms.whole_rooms import WholeRooms


class Kicking:
    def __init__(self, *, engine: RoomEngine, whole: WholeRooms) -> None:
        self._engine = engine
        self._whole = whole

    async def kick(
        self,
        actor: Actor,
        room_id: str,
        user_id: str,
        *,
        reason: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Kick a user; the event id. Raises Forbidden, and BadState for a banned user, whom it would unban."""
        check_not_suspended(actor)
        check_target(user_id)
        sender = actor.user_id

        def plan(head: RoomHead) -> Draft:
            require_joined(head, sender)
            membership = head.membership(user_id)
            if membership == "ban":
                raise BadState(f"{user_id} is banned; lift the ban instead")
            if membership not in ("join", "invite", "knock"):
                raise not_joined(user_id, room_id)
            levels = head.power_levels
            level = levels.user_level(sender)
            if level < levels.kick or levels.user_level(user_id) >= level:
                raise insufficient_power(f"You don't have permission to kick {user_id}")
            return Draft(MEMBER, sender, member_content("leave", reason=reason, extra=extra), user_id)

        await self._whole.knows(room_id, user_id)
        return await write_member(self._engine, room_id, sender, user_id, plan)
