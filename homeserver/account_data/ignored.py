# SPDX-License-Identifier: Apache-2.0
"""Whom a user ignores (client-server API, "Ignoring Users"). Owns reading the list; what ignoring does is others'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.errors import BadJson
from homeserver.protocol.identifiers import is_valid_user_id

IGNORED_USER_LIST = "m.ignored_user_list"


def ignored_users(content: Mapping[str, Any] | None, user_id: str) -> frozenset[str]:
    """The users a list names. Nobody ignores themselves: their own events would vanish from all their devices."""
    users = content.get("ignored_users") if content is not None else None
    if not isinstance(users, dict):
        return frozenset()
    return frozenset(users) - {user_id}


def check_ignored_user_list(content: Mapping[str, Any]) -> None:
    """Raise BadJson for a list that would ignore nobody though it looks like one."""
    users = content.get("ignored_users", {})
    if not isinstance(users, dict) or not all(isinstance(value, dict) for value in users.values()):
        raise BadJson("ignored_users must map user ids to objects")
    if not all(map(is_valid_user_id, users)):
        raise BadJson("ignored_users may only name users")
