# SPDX-License-Identifier: Apache-2.0
"""Rule 1: `m.room.create`. Later rules on how other events relate to the create event are in `general`."""

from homeserver.protocol.event_auth.errors import AuthError
from homeserver.protocol.events import Event
from homeserver.protocol.identifiers import is_valid_user_id
from homeserver.protocol.room_versions import ROOM_VERSIONS


def check_create(event: Event) -> None:
    """Raises AuthError unless the event may begin a room. No state is asked: there is none."""
    version, content = event.room_version, event.content
    if event.prev_event_ids:
        raise AuthError("m.room.create has prev_events")
    if version.room_id_is_create_hash:
        if "room_id" in event.pdu:
            raise AuthError("m.room.create has a room_id, which its own hash is to be")
    elif event.room_id.partition(":")[2] != event.sender.partition(":")[2]:
        raise AuthError("the room id is of another domain than the creator")
    named_version = content.get("room_version", "1")
    if not isinstance(named_version, str) or named_version not in ROOM_VERSIONS:
        raise AuthError("unrecognised room_version")
    if version.create_has_creator and "creator" not in content:
        raise AuthError("m.room.create has no creator")
    if version.privileged_creators and "additional_creators" in content:
        additional = content["additional_creators"]
        if not isinstance(additional, list) or not all(
            isinstance(user_id, str) and is_valid_user_id(user_id) for user_id in additional
        ):
            raise AuthError("additional_creators is not a list of user ids")
