# SPDX-License-Identifier: Apache-2.0
"""What clients keep for a user: `service` keeps and tells it, `tags` and `ignored` read meaning into it."""

from homeserver.account_data.ignored import IGNORED_USER_LIST
from homeserver.account_data.memory import UserDataCache
from homeserver.account_data.service import AccountData, AccountDataChanges
from homeserver.account_data.tags import Tags

__all__ = ["IGNORED_USER_LIST", "AccountData", "AccountDataChanges", "Tags", "UserDataCache"]
