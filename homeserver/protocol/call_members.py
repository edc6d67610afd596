# SPDX-License-Identifier: Apache-2.0
"""Whose part in a group call a piece of state is (MSC3401, MSC4143), and who may write it.

Owns the types of such state and the rule of MSC3757 on it. That rule is for a room version to come, in which owned keys
begin with `@user:server_`; until then clients begin them with `_@user:server_`, and no authorization rule looks at
those. So a server can hold its own users to it, and no others: this is for what is about to be sent, never for judging
events.
"""

from typing import Final

from homeserver.protocol.errors import IdentifierError
from homeserver.protocol.event_auth.errors import AuthError
from homeserver.protocol.identifiers import check_user_id
from homeserver.protocol.power_levels import PowerLevels

CALL_MEMBER_TYPES: Final = ("m.call.member", "org.matrix.msc3401.call.member")


def owner_of(state_key: str) -> str | None:
    """The user whose a key of the form `_@user:server` or `_@user:server_anything` is; None for any other key.

    The user id ends before the first `_` after its first `:`, as no server name has one: a mere prefix would give
    `@user:example.org.evil.com` to `@user:example.org`. Raises IdentifierError where what stands there is no user id.
    """
    if not state_key.startswith("_@"):
        return None
    localpart, colon, rest = state_key[1:].partition(":")
    user_id = localpart + colon + rest.partition("_")[0]
    check_user_id(user_id)
    return user_id


def check_call_member(event_type: str, state_key: str, sender: str, levels: PowerLevels) -> None:
    """Raise AuthError where the state is another user's part in a call and the sender has no more power than they.

    Whoever has more may write it, so that moderators can clear what others leave behind.
    """
    if event_type not in CALL_MEMBER_TYPES:
        return
    try:
        owner = owner_of(state_key)
    except IdentifierError as error:
        raise AuthError(f"the state key is owned by nobody: {error}") from error
    if owner is None or owner == sender:
        return
    if levels.user_level(sender) <= levels.user_level(owner):
        raise AuthError("the state key is another user's")
