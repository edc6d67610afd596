# SPDX-License-Identifier: Apache-2.0
"""What clients keep for a user.

`service` keeps and tells it, `memory` holds that of users who are about; `tags`, `ignored`, `invite_permissions` and
`upgrades` read meaning into it.
"""

from homeserver.account_data.ignored import IGNORED_USER_LIST
from homeserver.account_data.invite_permissions import InvitePermissions
from homeserver.account_data.memory import UserDataCache
from homeserver.account_data.service import AccountData, AccountDataChanges
from homeserver.account_data.tags import Tags
from homeserver.account_data.upgrades import CarryOver

__all__ = [
    "IGNORED_USER_LIST",
    "AccountData",
    "AccountDataChanges",
    "CarryOver",
    "InvitePermissions",
    "Tags",
    "UserDataCache",
]
