# SPDX-License-Identifier: Apache-2.0
"""Upgrading a room to another version. Client-server API, "Room Upgrades"."""

from homeserver.rooms.creation.upgrade import RoomUpgrade
from homeserver.web.bodies import Struct
from homeserver.web.replies import Reply
from homeserver.web.request import MatrixRequest
from homeserver.web.routing import Route


class UpgradeBody(Struct, frozen=True):
    """The version to go to."""

    new_version: str
    additional_creators: list[str] | None = None


class RoomUpgradeEndpoints:
    """`/rooms/{roomId}/upgrade`."""

    def __init__(self, upgrade: RoomUpgrade) -> None:
        self._upgrade = upgrade

    def routes(self) -> tuple[Route, ...]:
        return (Route("POST", "/rooms/{room_id}/upgrade", self.upgrade, limit="rooms", suspended_ok=False),)

    async def upgrade(self, request: MatrixRequest) -> Reply:
        """`POST /rooms/{roomId}/upgrade`."""
        body = request.body(UpgradeBody)
        new_room_id = await self._upgrade.upgrade(
            request.requester, request.param("room_id"), body.new_version, body.additional_creators or ()
        )
        return {"replacement_room": new_room_id}
