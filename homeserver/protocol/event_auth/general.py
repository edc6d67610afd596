# SPDX-License-Identifier: Apache-2.0
"""The authorization rules in their order: the entry point and the rules for no particular type.

Rule numbers differ between versions; the comments name the rule by its subject.
"""

from homeserver.protocol.event_auth.create import check_create
from homeserver.protocol.event_auth.errors import AuthError
from homeserver.protocol.event_auth.membership import check_membership
from homeserver.protocol.event_auth.power_levels import check_power_levels
from homeserver.protocol.event_auth.redaction import check_redaction
from homeserver.protocol.event_auth.room_state import RoomState, StateEvents
from homeserver.protocol.events import Event


def check_event_auth(event: Event, auth_state: StateEvents) -> None:
    """Authorize an event against state events: those of the room, or those it cites. Raises AuthError.

    `auth_state` needs the state under `auth_types_for` the event and, also in version 12, the room's create
    event; more does no harm. Three checks are not made here because they do not depend on state: the event's
    format (`event_format`), its signatures (`signing`, an authorising server's included) and the auth events
    it cites (`check_auth_events`).
    """
    if event.type == "m.room.create":
        check_create(event)
        return
    room = RoomState.of(auth_state)
    _check_room(event, room)
    if event.type == "m.room.aliases" and room.version.special_aliases_auth:
        if event.state_key is None or event.state_key != _domain(event.sender):
            raise AuthError("m.room.aliases is for the sender's own server")
        return
    if event.type == "m.room.member":
        check_membership(event, room)
        return
    room.require_joined(event.sender)
    level = room.levels.user_level(event.sender)
    if event.type == "m.room.third_party_invite":
        if level < room.levels.invite:
            raise AuthError(f"{event.sender} has not enough power to invite")
        return
    required = room.levels.event_level(event.type, is_state=event.state_key is not None)
    if required > level:
        raise AuthError(f"{event.sender} has not enough power to send {event.type}: {level} of {required}")
    if event.state_key is not None and event.state_key.startswith("@") and event.state_key != event.sender:
        raise AuthError("the state key is another user's")
    if event.type == "m.room.power_levels":
        check_power_levels(event, room)
    elif event.type == "m.room.redaction" and room.version.redaction_auth_rule:
        check_redaction(event, room)


def _check_room(event: Event, room: RoomState) -> None:
    """The event belongs to the room of the create event (version 12: by its very id), whose `m.federate` lets
    the sender's server take part.
    """
    if event.room_id != room.create.room_id:
        raise AuthError("the m.room.create event is of another room")
    if room.create.content.get("m.federate") is False and _domain(event.sender) != _domain(
        room.create.sender
    ):
        raise AuthError("the room does not federate")


def _domain(user_id: str) -> str:
    return user_id.partition(":")[2]
