# SPDX-License-Identifier: Apache-2.0
"""The client format of events (client-server API, "Room event format"; room versions' "client considerations").

Owns which keys of a PDU clients see, as bytes that are spliced into responses. Does not own `unsigned`, which differs
from reader to reader: that is `rendering`'s. Pure.
"""

from __future__ import annotations

from typing import Any

import orjson

from homeserver.protocol.events import Event


def client_event_body(event: Event) -> bytes:
    """`{"content":…,"type":…` without `room_id`, without `unsigned` and without the closing brace.

    This is how `/sync` begins an event, where the room is the key it stands under; see `room_part`.
    """
    pdu = event.pdu
    fields: dict[str, Any] = {
        "content": pdu["content"],
        "event_id": event.event_id,
        "origin_server_ts": pdu["origin_server_ts"],
        "sender": event.sender,
        "type": event.type,
    }
    if event.state_key is not None:
        fields["state_key"] = event.state_key
    redacts = event.redacts
    if redacts is not None:
        # Old clients read it at the top level, new ones in the content; servers give both (room version 11,
        # "Moving the redacts property").
        fields["redacts"] = redacts
        if "redacts" not in fields["content"]:
            fields["content"] = {**fields["content"], "redacts": redacts}
    return orjson.dumps(fields)[:-1]


def room_part(room_id: str) -> bytes:
    """What follows the body where the room is not told by the place of the event in the response."""
    return b',"room_id":' + orjson.dumps(room_id)


def stripped_state_event(event: Event) -> dict[str, Any]:
    """Stripped state: type, state key, content, sender (client-server API, "Stripped state")."""
    return {
        "content": event.content,
        "sender": event.sender,
        "state_key": event.state_key,
        "type": event.type,
    }
