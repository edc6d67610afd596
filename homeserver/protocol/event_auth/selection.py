# SPDX-License-Identifier: Apache-2.0
"""Auth events: which state an event must cite, and whether what it cites is acceptable.

Server-server API, "Auth events selection"; rule 2 (version 12: rules 2 and 3) of each room version's
authorization rules.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from homeserver.protocol.event_auth.errors import AuthError
from homeserver.protocol.event_auth.room_state import CREATE, JOIN_RULES, POWER_LEVELS
from homeserver.protocol.events import Event
from homeserver.protocol.room_versions import RoomVersion


def auth_types_for(
    version: RoomVersion, event_type: str, sender: str, state_key: str | None, content: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """The state keys whose events, where the room has them, are an event's `auth_events`; without repetition.

    In version 12 the create event is not among them: authorization still needs it, found by the room id.
    """
    if event_type == "m.room.create":
        return []
    keys = [POWER_LEVELS, ("m.room.member", sender)]
    if version.create_in_auth_events:
        keys.insert(0, CREATE)
    if event_type != "m.room.member" or state_key is None:
        return keys
    if state_key != sender:
        keys.append(("m.room.member", state_key))
    membership = content.get("membership")
    if membership in ("join", "invite", "knock"):
        keys.append(JOIN_RULES)
    if membership == "invite":
        token = third_party_token(content)
        if token is not None:
            keys.append(("m.room.third_party_invite", token))
    if membership == "join" and version.restricted_joins:
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str) and authoriser not in (sender, state_key):
            keys.append(("m.room.member", authoriser))
    return keys


def third_party_token(content: Mapping[str, Any]) -> str | None:
    """`third_party_invite.signed.token` of a member content, if it is there and a string."""
    invite = content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, Mapping) else None
    token = signed.get("token") if isinstance(signed, Mapping) else None
    return token if isinstance(token, str) else None


def check_auth_events(event: Event, auth_events: Sequence[Event], rejected: Collection[str] = ()) -> None:
    """Check the events that `event` cites as `auth_events`, all of which the caller has found.

    `rejected` holds the ids of those events (in version 12, also of the create event) that were rejected when
    they were received. Raises AuthError. Whether the cited state *allows* the event is `check_event_auth`'s
    question.
    """
    version = event.room_version
    if event.type == "m.room.create":
        return
    if version.room_id_is_create_hash and "$" + event.room_id[1:] in rejected:
        raise AuthError("the room's m.room.create event was rejected")
    expected = set(auth_types_for(version, event.type, event.sender, event.state_key, event.content))
    seen: set[tuple[str, str]] = set()
    for auth_event in auth_events:
        if auth_event.state_key is None or auth_event.state_tuple not in expected:
            raise AuthError(f"unexpected auth event {auth_event.event_id} of type {auth_event.type}")
        key = auth_event.state_tuple
        if key in seen:
            raise AuthError(f"more than one auth event for {key}")
        seen.add(key)
        if auth_event.event_id in rejected:
            raise AuthError(f"auth event {auth_event.event_id} was rejected")
        if auth_event.room_id != event.room_id:
            raise AuthError(f"auth event {auth_event.event_id} is of another room")
    if version.create_in_auth_events and CREATE not in seen:
        raise AuthError("there is no m.room.create event among the auth events")
