# SPDX-License-Identifier: Apache-2.0
"""Banning a user, who leaves and cannot come back, invited or not. Client-server API, "Banning users in a room"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.rooms.actor import Actor, check_not_suspended
from homeserver.rooms.engine import Draft, RoomEngine, RoomHead
from homeserver.rooms.membership.member_content import check_target, member_content
from homeserver.rooms.membership.writing import MEMBER, require_joined, write_member
from homeserver.rooms.refusals import insufficient_power


class Banning:
    def __init__(self, *, engine: RoomEngine) -> None:
        self._engine = engine

    async def ban(
        self,
        actor: Actor,
        room_id: str,
        user_id: str,
        *,
        reason: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Ban a user, in the room or not; the event id. Banning again gives only a new reason. Raises Forbidden."""
        check_not_suspended(actor)
        check_target(user_id)
        sender = actor.user_id

        def plan(head: RoomHead) -> Draft | None:
            require_joined(head, sender)
            levels = head.power_levels
            level = levels.user_level(sender)
            if level < levels.ban or levels.user_level(user_id) >= level:
                raise insufficient_power(f"You don't have permission to ban {user_id}")
            if head.membership(user_id) == "ban" and reason is None and extra is None:
                return None
            return Draft(MEMBER, sender, member_content("ban", reason=reason, extra=extra), user_id)

        return await write_member(self._engine, room_id, sender, user_id, plan)
