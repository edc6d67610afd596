# SPDX-License-Identifier: Apache-2.0
"""Who takes no invites (client-server API, "Invite permission"). Owns reading the setting; refusing is others'."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from homeserver.account_data.service import AccountData

INVITE_PERMISSION_CONFIG = "m.invite_permission_config"


class InvitePermissions:
    """The setting of each user."""

    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    async def blocking(self, inviter: str, invited: Sequence[str]) -> Collection[str]:
        """Those of the invited who take no invite from the inviter; the setting so far knows only nobody and all."""
        found = await self._account_data.get_of_users(invited, INVITE_PERMISSION_CONFIG)
        return {user_id for user_id, content in found.items() if content.get("default_action") == "block"}

    async def blocks_all(self, user_id: str) -> bool:
        """Whether the user wants to see no invites: also those that came before are not shown in a sync."""
        content = await self._account_data.get(user_id, INVITE_PERMISSION_CONFIG)
        return content is not None and content.get("default_action") == "block"
