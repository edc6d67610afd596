# SPDX-License-Identifier: Apache-2.0
"""`m.typing` of other servers (server-server API, "Typing Notifications")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.needs import Protocol
from homeserver.protocol.identifiers import domain_of, is_valid_room_id, is_valid_user_id
from homeserver.rooms.engine import Room


class Rooms(Protocol):
    """Rooms by id (`homeserver.rooms.engine.RoomCache`)."""

    async def get(self, room_id: str) -> Room | None: ...


class Typing(Protocol):
    """What is needed of `homeserver.typing.Typing`."""

    async def receive(self, room: Room, user_id: str, *, typing: bool) -> None: ...


class TypingEdus:
    """Takes typing of users who are the origin's and in the room, if its access control list lets the origin in."""

    def __init__(self, *, server_name: str, rooms: Rooms, typing: Typing) -> None:
        self._server_name = server_name
        self._rooms = rooms
        self._typing = typing

    async def receive(self, origin: str, content: Mapping[str, Any]) -> None:
        """One unit."""
        room_id, user_id, typing = content.get("room_id"), content.get("user_id"), content.get("typing")
        if not isinstance(room_id, str) or not isinstance(user_id, str) or not isinstance(typing, bool):
            return
        if not is_valid_room_id(room_id) or not is_valid_user_id(user_id) or domain_of(user_id) != origin:
            return
        room = await self._rooms.get(room_id)
        if room is None:
            return
        head = room.head
        if head.is_joined(user_id) and head.is_resident(self._server_name) and head.server_acl.allows(origin):
            await self._typing.receive(room, user_id, typing=typing)
