# SPDX-License-Identifier: Apache-2.0
"""What a user kept about a room follows them into the room that replaced it: its tags, that it is a direct chat, and
the push rules about it. Client-server API, "Room Upgrades", "Server behaviour".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.account_data.service import AccountData
from homeserver.account_data.tags import TAG
from homeserver.needs import Protocol

DIRECT = "m.direct"


class PushRules(Protocol):
    """Keeps the user's push rules."""

    async def follow(self, user_id: str, old_room_id: str, new_room_id: str) -> None: ...


class CarryOver:
    """Copies settings of a room; copying again changes nothing."""

    def __init__(self, account_data: AccountData, push_rules: PushRules) -> None:
        self._account_data = account_data
        self._push_rules = push_rules

    async def carry_over(self, user_id: str, old_room_id: str, new_room_id: str) -> None:
        """The user joined the room that replaced another. Tags they already gave the new room stay."""
        data = self._account_data
        tags = await data.find(user_id, old_room_id, TAG)
        if tags is not None and tags.get("tags"):
            await data.update(user_id, new_room_id, TAG, lambda present: tags if present is None else present)

        def with_successor(direct: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
            if direct is None:
                return None
            return {other: _extended(rooms, old_room_id, new_room_id) for other, rooms in direct.items()}

        direct = await data.get(user_id, DIRECT)
        if with_successor(direct) != direct:
            await data.update(user_id, None, DIRECT, with_successor)
        await self._push_rules.follow(user_id, old_room_id, new_room_id)


def _extended(rooms: Any, old_room_id: str, new_room_id: str) -> Any:
    if not isinstance(rooms, list) or old_room_id not in rooms or new_room_id in rooms:
        return rooms
    return [*rooms, new_room_id]
