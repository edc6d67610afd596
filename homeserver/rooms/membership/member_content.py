# SPDX-License-Identifier: Apache-2.0
"""What goes into a member event: the profile, the reason, and whatever else its sender put there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from homeserver.errors import InvalidParam
from homeserver.needs import Protocol
from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.identifiers import check_user_id

_OURS = ("membership", "join_authorised_via_users_server", "third_party_invite")


class MemberProfiles(Protocol):
    """Global profiles of this server's users, as far as member events show them."""

    async def member_profiles(self, user_ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """`displayname` and `avatar_url`, where set, by user; users without any may be absent."""


def member_content(
    membership: str,
    *,
    profile: Mapping[str, str] | None = None,
    reason: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a member event. `extra` is what the sender gave: it goes before the profile."""
    content: dict[str, Any] = {} if extra is None else {k: v for k, v in extra.items() if k not in _OURS}
    content["membership"] = membership
    for key, value in (profile or {}).items():
        content.setdefault(key, value)
    if reason is not None:
        content["reason"] = reason
    return content


def check_target(user_id: str) -> None:
    """Raise InvalidParam unless it is a user id."""
    try:
        check_user_id(user_id)
    except IdentifierError as error:
        raise InvalidParam(str(error)) from error
