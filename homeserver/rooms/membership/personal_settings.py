# SPDX-License-Identifier: Apache-2.0
"""What a user keeps about a room follows them into the one that replaced it. Client-server API, "Room Upgrades"."""

from __future__ import annotations

import logging

from homeserver.needs import Protocol

logger = logging.getLogger(__name__)


class PersonalSettings(Protocol):
    """What a user keeps about a room: tags, notification settings, …"""

    async def carry_over(self, user_id: str, old_room_id: str, new_room_id: str) -> None:
        """Copy them from a room to the one that replaced it. Must do no harm when called again."""


async def carry_settings_over(
    settings: PersonalSettings, user_id: str, old_room_id: str, new_room_id: str
) -> None:
    """Have them copied for a user who now is in the new room.

    That stands, and telling the client otherwise would be worse than lost tags: a failure is logged only.
    """
    try:
        await settings.carry_over(user_id, old_room_id, new_room_id)
    except Exception:
        logger.exception("settings of %s were not carried over to %s", user_id, new_room_id)
